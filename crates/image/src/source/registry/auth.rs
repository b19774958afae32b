//! Logging in: what a registry asks for, and tokens.

use std::collections::BTreeMap;
use std::fmt;
use std::io::Read;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use ureq::http::Uri;

use super::error::RegistryError;
use super::http::{Http, Response};
use crate::reference::Name;

/// Bytes of a token's answer, at most.
const MAX_TOKEN: u64 = 256 << 10;

/// Who we are, for one registry.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Credentials {
    /// A name and its password.
    Password {
        /// The name.
        username: String,
        /// The password.
        password: String,
    },
    /// A token that others are given for.
    Identity(String),
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credentials(..)")
    }
}

/// What a registry asks for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Challenge {
    Basic,
    Bearer { realm: String, service: Option<String> },
}

impl Challenge {
    /// The best of what the values of `WWW-Authenticate` ask for.
    pub(super) fn read(values: &[String]) -> Option<Self> {
        let all = || values.iter().filter_map(|value| Self::parse(value));
        all().find(|challenge| *challenge != Self::Basic).or_else(|| all().next())
    }

    fn parse(value: &str) -> Option<Self> {
        let (scheme, rest) = value.trim().split_once(' ').unwrap_or((value.trim(), ""));
        if scheme.eq_ignore_ascii_case("basic") {
            return Some(Self::Basic);
        }
        let mut parameters = parameters(rest);
        let realm = parameters.remove("realm").filter(|_| scheme.eq_ignore_ascii_case("bearer"))?;
        Some(Self::Bearer { realm, service: parameters.remove("service") })
    }
}

/// `name="value", name=value` as a map; what is no such pair ends it.
fn parameters(mut rest: &str) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    while let Some((name, after)) = rest.split_once('=') {
        let (value, left) = match after.strip_prefix('"') {
            Some(quoted) => match quoted.split_once('"') {
                Some(parts) => parts,
                None => break,
            },
            None => after.split_at(after.find(',').unwrap_or(after.len())),
        };
        let name = name.trim_matches([' ', ',', '\t']).to_ascii_lowercase();
        found.insert(name, value.trim().to_owned());
        rest = left;
    }
    found
}

/// What goes into `Authorization` to answer a challenge.
pub(super) fn answer(
    http: &Http,
    challenge: &Challenge,
    name: &Name,
    credentials: Option<&Credentials>,
) -> Result<String, RegistryError> {
    match (challenge, credentials) {
        (Challenge::Basic, Some(Credentials::Password { username, password })) => {
            Ok(basic(username, password))
        }
        (Challenge::Basic, _) => {
            let host = name.registry().to_owned();
            Err(RegistryError::Denied { host, name: name.familiar() })
        }
        (Challenge::Bearer { realm, service }, credentials) => {
            let token = token(http, realm, service.as_deref(), name, credentials)?;
            Ok(format!("Bearer {token}"))
        }
    }
}

fn basic(username: &str, password: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("{username}:{password}")))
}

#[derive(Debug, Deserialize)]
struct Token {
    token: Option<String>,
    access_token: Option<String>,
}

fn token(
    http: &Http,
    realm: &str,
    service: Option<&str>,
    name: &Name,
    credentials: Option<&Credentials>,
) -> Result<String, RegistryError> {
    let uri: Uri =
        realm.parse().map_err(|_| RegistryError::Challenge("its realm is no address"))?;
    let foreign = !is_of_registry(uri.host().unwrap_or_default(), http.host_name());
    if credentials.is_some() && foreign {
        let why = "the password for it would go to another host";
        return Err(RegistryError::Challenge(why));
    }
    // Asked for is what is needed, whatever the registry would like asked for.
    let scope = format!("repository:{}:pull", name.repository());
    let service = service.unwrap_or_default();
    let response = match credentials {
        Some(Credentials::Identity(identity)) => {
            let form = [
                ("grant_type", "refresh_token"),
                ("client_id", "vmm"),
                ("service", service),
                ("scope", &scope),
                ("refresh_token", identity),
            ];
            http.post(realm, &form)?
        }
        password => {
            let separator = if realm.contains('?') { '&' } else { '?' };
            let (service, scope) = (encoded(service), encoded(&scope));
            let url = format!("{realm}{separator}service={service}&scope={scope}");
            let authorization = match password {
                Some(Credentials::Password { username, password }) => {
                    Some(basic(username, password))
                }
                _ => None,
            };
            http.get(&url, "application/json", authorization.as_deref())?
        }
    };
    read_token(response.checked(name)?)
}

fn read_token(response: Response) -> Result<String, RegistryError> {
    let mut bytes = Vec::new();
    response.body.take(MAX_TOKEN).read_to_end(&mut bytes).map_err(RegistryError::Body)?;
    let token: Token = serde_json::from_slice(&bytes)
        .map_err(|_| RegistryError::Token("the answer cannot be read".to_owned()))?;
    let token = token.token.or(token.access_token).filter(|token| !token.is_empty());
    let token = token.filter(|token| token.bytes().all(|byte| byte.is_ascii_graphic()));
    token.ok_or_else(|| RegistryError::Token("the answer has none in it".to_owned()))
}

/// Whether a password for the registry may be told to `realm`: to the registry itself, to the domain that
/// it is in, or to another host in the same domain (`auth.docker.io` for `registry-1.docker.io`).
fn is_of_registry(realm: &str, registry: &str) -> bool {
    let (realm, registry) = (realm.to_ascii_lowercase(), registry.to_ascii_lowercase());
    let is_number = |host: &str| host.contains(':') || host.parse::<std::net::IpAddr>().is_ok();
    if realm == registry || is_number(&realm) || is_number(&registry) {
        return realm == registry;
    }
    let Some((_, domain)) = registry.split_once('.') else { return false };
    domain.contains('.') && (realm == domain || realm.ends_with(&format!(".{domain}")))
}

fn encoded(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                out.push(char::from(byte));
            }
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(value: &str) -> Option<Challenge> {
        Challenge::read(&[value.to_owned()])
    }

    #[test]
    fn challenges_are_read_and_the_better_one_is_taken() {
        let bearer = r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="x:y,z""#;
        let expected = Challenge::Bearer {
            realm: "https://auth.docker.io/token".into(),
            service: Some("registry.docker.io".into()),
        };
        assert_eq!(read(bearer), Some(expected));
        assert_eq!(read("Basic realm=\"x\""), Some(Challenge::Basic));
        let both = ["basic".to_owned(), bearer.to_owned()];
        assert!(matches!(Challenge::read(&both), Some(Challenge::Bearer { .. })));
        for value in [
            "",
            "Bearer",
            "Bearer service=x",
            "Digest realm=x",
            "Bearer realm=\"x",
            "=",
            "Bearer =",
        ] {
            assert_eq!(read(value), None, "{value}");
        }
    }

    /// I16: a password goes to the registry's own domain alone.
    #[test]
    fn password_goes_to_the_registry_s_domain_alone() {
        for (realm, registry) in [
            ("auth.docker.io", "registry-1.docker.io"),
            ("gitlab.com", "registry.gitlab.com"),
            ("QUAY.io", "quay.io"),
            ("127.0.0.1", "127.0.0.1"),
        ] {
            assert!(is_of_registry(realm, registry), "{realm} {registry}");
        }
        for (realm, registry) in [
            ("evil.io", "quay.io"),
            ("evil.com", "registry.gitlab.com"),
            ("docker.io.evil.com", "registry-1.docker.io"),
            ("evildocker.io", "registry-1.docker.io"),
            ("0.0.1", "127.0.0.1"),
            ("2.0.0.1", "1.0.0.1"),
            ("localhost", "quay.io"),
            ("", "quay.io"),
        ] {
            assert!(!is_of_registry(realm, registry), "{realm} {registry}");
        }
    }

    #[test]
    fn query_values_are_encoded_byte_by_byte() {
        assert_eq!(encoded("repository:a/b:pull&x=é"), "repository%3Aa%2Fb%3Apull%26x%3D%C3%A9");
    }
}
