//! Who we are, as `docker login` and `podman login` have noted it down.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

use crate::reference::DEFAULT_REGISTRY;
use crate::source::registry::Credentials;

/// What docker calls its own registry there.
const DEFAULT_KEY: &str = "https://index.docker.io/v1/";
/// Bytes of the file, and of a program's answer, at most.
const MAX_FILE: u64 = 1 << 20;

/// Why what is noted down cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CredentialsError {
    /// The file cannot be read.
    #[error("{path}: {why}", path = path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The program that keeps passwords.
    #[error("{program}: {why}")]
    Program {
        /// Its name.
        program: String,
        /// What is wrong.
        why: String,
    },
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Config {
    auths: BTreeMap<String, Auth>,
    cred_helpers: BTreeMap<String, String>,
    creds_store: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Auth {
    auth: Option<String>,
    username: Option<String>,
    password: Option<String>,
    identitytoken: Option<String>,
}

/// What a program that keeps passwords answers.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Kept {
    username: String,
    secret: String,
}

/// What is noted down for `registry`, in docker's `config.json` and then in podman's `auth.json`.
///
/// # Errors
///
/// A file or a program that ought to know cannot be used.
pub fn find(registry: &str) -> Result<Option<Credentials>, CredentialsError> {
    for path in files(|name| std::env::var_os(name).map(PathBuf::from)) {
        if let Some(found) = find_in(&path, registry)? {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

/// The files, in the order in which they are asked.
fn files(variable: impl Fn(&str) -> Option<PathBuf>) -> Vec<PathBuf> {
    let home = || variable("HOME").map(|home| home.join(".docker"));
    let docker = variable("DOCKER_CONFIG").or_else(home).map(|dir| dir.join("config.json"));
    let runtime = || variable("XDG_RUNTIME_DIR").map(|dir| dir.join("containers/auth.json"));
    let podman = variable("REGISTRY_AUTH_FILE").or_else(runtime);
    docker.into_iter().chain(podman).collect()
}

fn find_in(
    path: &std::path::Path,
    registry: &str,
) -> Result<Option<Credentials>, CredentialsError> {
    let fail = |why: String| CredentialsError::File { path: path.to_owned(), why };
    let mut bytes = Vec::new();
    match std::fs::File::open(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        file => file
            .and_then(|file| file.take(MAX_FILE).read_to_end(&mut bytes))
            .map_err(|error| fail(error.to_string()))?,
    };
    let config: Config = serde_json::from_slice(&bytes).map_err(|error| fail(error.to_string()))?;
    let key = if registry == DEFAULT_REGISTRY { DEFAULT_KEY } else { registry };
    if let Some(helper) = config.cred_helpers.get(key).or(config.creds_store.as_ref())
        && let Some(kept) = ask(helper, key)?
    {
        return Ok(Some(kept));
    }
    let noted = config.auths.iter().find(|(name, _)| same(name, key));
    noted
        .map(|(_, auth)| auth.read().ok_or_else(|| fail("an entry that cannot be read".to_owned())))
        .transpose()
        .map(Option::flatten)
}

/// Older tools write `https://host/v1/` for `host`.
fn same(name: &str, key: &str) -> bool {
    let bare = |text: &str| -> String {
        let rest = text.strip_prefix("https://").or(text.strip_prefix("http://")).unwrap_or(text);
        rest.split('/').next().unwrap_or_default().to_ascii_lowercase()
    };
    bare(name) == bare(key)
}

impl Auth {
    /// The credentials, nothing where there are none, or `None` for what cannot be read.
    fn read(&self) -> Option<Option<Credentials>> {
        if let Some(token) = self.identitytoken.as_ref().filter(|token| !token.is_empty()) {
            return Some(Some(Credentials::Identity(token.clone())));
        }
        if let (Some(username), Some(password)) = (&self.username, &self.password) {
            let (username, password) = (username.clone(), password.clone());
            return Some(Some(Credentials::Password { username, password }));
        }
        let Some(auth) = self.auth.as_ref().filter(|auth| !auth.is_empty()) else {
            return Some(None);
        };
        let text = String::from_utf8(STANDARD.decode(auth).ok()?).ok()?;
        let (username, password) = text.trim_end_matches('\0').split_once(':')?;
        let (username, password) = (username.to_owned(), password.to_owned());
        Some(Some(Credentials::Password { username, password }))
    }
}

/// Asks the program `docker-credential-HELPER`, which the user has chosen to keep passwords.
fn ask(helper: &str, registry: &str) -> Result<Option<Credentials>, CredentialsError> {
    let program = format!("docker-credential-{helper}");
    let fail = |why: String| CredentialsError::Program { program: program.clone(), why };
    let is_word = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if helper.is_empty() || !helper.chars().all(is_word) {
        return Err(CredentialsError::Program {
            program: "docker-credential-*".to_owned(),
            why: "the name of the program is not one word".to_owned(),
        });
    }
    let mut command = Command::new(&program);
    command.arg("get").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().map_err(|error| fail(error.to_string()))?;
    if let Some(mut input) = child.stdin.take() {
        // A program that does not read says so by its status.
        let _: std::io::Result<()> = input.write_all(registry.as_bytes());
    }
    let mut answer = Vec::new();
    if let Some(output) = child.stdout.take() {
        output.take(MAX_FILE).read_to_end(&mut answer).map_err(|error| fail(error.to_string()))?;
    }
    let status = child.wait().map_err(|error| fail(error.to_string()))?;
    if !status.success() {
        let says = String::from_utf8_lossy(&answer);
        if says.contains("credentials not found") {
            return Ok(None);
        }
        return Err(fail(format!("it ends with {status}")));
    }
    let kept: Kept = serde_json::from_slice(&answer).map_err(|error| fail(error.to_string()))?;
    Ok(Some(match kept.username.as_str() {
        "<token>" => Credentials::Identity(kept.secret),
        _ => Credentials::Password { username: kept.username, password: kept.secret },
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(text: &str) -> (tempfile::TempDir, PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("config.json");
        std::fs::write(&path, text).unwrap();
        (directory, path)
    }

    fn password(username: &str, password: &str) -> Option<Credentials> {
        let (username, password) = (username.to_owned(), password.to_owned());
        Some(Credentials::Password { username, password })
    }

    #[test]
    fn logins_of_docker_are_found_by_registry() {
        let auth = STANDARD.encode("me:a:b");
        let (_directory, path) = config(&format!(
            r#"{{"auths": {{"host:5000": {{"auth": "{auth}"}}, "{DEFAULT_KEY}": {{"identitytoken": "t"}},
                "empty.io": {{}}, "broken.io": {{"auth": "%"}}}}, "HttpHeaders": {{}}}}"#
        ));
        assert_eq!(find_in(&path, "host:5000").unwrap(), password("me", "a:b"));
        assert_eq!(find_in(&path, "docker.io").unwrap(), Some(Credentials::Identity("t".into())));
        assert_eq!(find_in(&path, "host").unwrap(), None);
        assert_eq!(find_in(&path, "empty.io").unwrap(), None);
        assert!(find_in(&path, "broken.io").is_err());
        assert_eq!(find_in(&path.with_file_name("none"), "x").unwrap(), None);
    }

    /// A9: the name of a helper is one word, and never a path.
    #[test]
    fn helper_that_is_a_path_is_not_started() {
        for helper in ["../x", "a/b", "", "a b", "x;y"] {
            let (_directory, path) = config(&format!(r#"{{"credHelpers": {{"h": "{helper}"}}}}"#));
            let error = find_in(&path, "h").expect_err(helper).to_string();
            assert!(error.contains("not one word"), "{error}");
        }
        let (_directory, path) = config(r#"{"credsStore": "no-such-helper-here"}"#);
        let error = find_in(&path, "h").expect_err("missing").to_string();
        assert!(error.starts_with("docker-credential-no-such-helper-here: "), "{error}");
    }

    #[test]
    fn files_are_docker_s_and_then_podman_s() {
        let set = |name: &str| match name {
            "HOME" => Some("/h".into()),
            "XDG_RUNTIME_DIR" => Some("/r".into()),
            _ => None,
        };
        let expected: [PathBuf; 2] =
            ["/h/.docker/config.json".into(), "/r/containers/auth.json".into()];
        assert_eq!(files(set), expected);
    }
}
