//! Requests, and where they may lead.

use std::io::{self, Read};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ureq::http::{HeaderMap, Uri, header};
use ureq::tls::{Certificate, RootCerts, TlsConfig};
use ureq::unversioned::transport::DefaultConnector;
use ureq::{Agent, Body};

use super::error::RegistryError;
use super::reach::{Guard, Reach};
use crate::reference::Name;

/// Steps from one address to the next, at most.
const MAX_REDIRECTS: usize = 5;
/// Bytes of the head of an answer, at most.
const MAX_HEAD: usize = 64 << 10;
/// Bytes a second that a body must come with, at least.
const MIN_RATE: u64 = 1024;

type Answer = Result<ureq::http::Response<Body>, ureq::Error>;

/// A client of HTTP for one registry and what it leads to.
#[derive(Debug)]
pub(super) struct Http {
    agent: Agent,
    /// The registry's host and port.
    host: String,
    plain: bool,
    patience: Duration,
}

/// An answer, of which the head has arrived.
pub(super) struct Response {
    pub(super) status: u16,
    pub(super) content_type: Option<String>,
    /// Values of `WWW-Authenticate`.
    pub(super) challenges: Vec<String>,
    pub(super) body: Box<dyn Read>,
    host: String,
}

impl Http {
    pub(super) fn new(
        host: &str,
        plain_http: bool,
        patience: Duration,
    ) -> Result<Self, RegistryError> {
        Self::with_reach(host, plain_http, patience, None)
    }

    /// Finds out whether a registry of this host speaks TLS. Others have to, unless the user allows them
    /// not to.
    pub(super) fn settle(&mut self) {
        if !self.plain && is_this_host(&self.host) {
            let url = format!("https://{}/v2/", self.host);
            let answer = self.sent(self.agent.get(url).call());
            self.plain = matches!(answer, Err(RegistryError::Connection { .. }));
        }
    }

    pub(super) fn with_reach(
        host: &str,
        plain: bool,
        patience: Duration,
        reach: Option<Reach>,
    ) -> Result<Self, RegistryError> {
        let tls = if plain { TlsConfig::default() } else { tls(is_this_host(host))? };
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .max_response_header_size(MAX_HEAD)
            .timeout_resolve(Some(patience))
            .timeout_connect(Some(patience))
            .timeout_send_request(Some(patience))
            .timeout_send_body(Some(patience))
            .timeout_recv_response(Some(patience))
            .timeout_per_read(Some(patience))
            .user_agent(concat!("vmm/", env!("CARGO_PKG_VERSION")))
            .tls_config(tls)
            .build();
        let guard = Guard::new(name_of(host).to_owned(), reach);
        let agent = Agent::with_parts(config, DefaultConnector::default(), guard);
        Ok(Self { agent, host: host.to_owned(), plain, patience })
    }

    /// The registry's address without a path.
    pub(super) fn base(&self) -> String {
        format!("{}://{}", if self.plain { "http" } else { "https" }, self.host)
    }

    #[cfg(test)]
    pub(super) fn patience(&self) -> Duration {
        self.patience
    }

    /// The registry's host without its port.
    pub(super) fn host_name(&self) -> &str {
        name_of(&self.host)
    }

    /// Gets what is at `url`, which may be somewhere else. Who we are is told to the first host alone.
    pub(super) fn get(
        &self,
        url: &str,
        accept: &str,
        authorization: Option<&str>,
    ) -> Result<Response, RegistryError> {
        let mut at = self.checked(url)?;
        let first = at.authority().cloned();
        for _ in 0..=MAX_REDIRECTS {
            let mut request = self.agent.get(&at).header(header::ACCEPT, accept);
            if let Some(value) = authorization.filter(|_| at.authority() == first.as_ref()) {
                request = request.header(header::AUTHORIZATION, value);
            }
            let answer = self.sent(request.call())?;
            match answer.headers().get(header::LOCATION) {
                Some(location) if answer.status().is_redirection() => {
                    let location = String::from_utf8_lossy(location.as_bytes()).into_owned();
                    at = self.checked(&absolute(&at, &location))?;
                }
                _ => return Ok(self.response(answer, &at)),
            }
        }
        Err(redirect(&at.to_string(), "after too many others"))
    }

    /// Sends a form, which is answered there.
    pub(super) fn post(&self, url: &str, form: &[(&str, &str)]) -> Result<Response, RegistryError> {
        let at = self.checked(url)?;
        let answer = self.sent(self.agent.post(&at).send_form(form.iter().copied()))?;
        Ok(self.response(answer, &at))
    }

    fn sent(&self, answer: Answer) -> Result<ureq::http::Response<Body>, RegistryError> {
        answer.map_err(|error| failure(&self.host, &error))
    }

    fn response(&self, answer: ureq::http::Response<Body>, at: &Uri) -> Response {
        let host = at.authority().map(ToString::to_string).unwrap_or_default();
        let text = |headers: &HeaderMap, name| {
            let values = headers.get_all(name).iter();
            values.filter_map(|value| value.to_str().ok().map(str::to_owned)).collect::<Vec<_>>()
        };
        let status = answer.status().as_u16();
        let content_type = text(answer.headers(), header::CONTENT_TYPE).into_iter().next();
        let challenges = text(answer.headers(), header::WWW_AUTHENTICATE);
        let reader = answer.into_body().into_reader();
        let body = Box::new(Steady::new(reader, self.patience));
        Response { status, content_type, challenges, body, host }
    }

    /// An address that may be asked: encrypted, unless the registry itself is not.
    fn checked(&self, url: &str) -> Result<Uri, RegistryError> {
        let uri: Uri = url.parse().map_err(|_| redirect(url, "which is no address"))?;
        let authority = uri.authority().map(|authority| authority.as_str()).unwrap_or_default();
        match uri.scheme_str() {
            Some("https") => {}
            Some("http") if self.plain => {}
            Some("http") => return Err(redirect(url, "which is not encrypted")),
            _ => return Err(redirect(url, "which is not on the web")),
        }
        if authority.is_empty() || authority.contains('@') {
            return Err(redirect(url, "which is no plain address of a host"));
        }
        Ok(uri)
    }
}

impl Response {
    /// The answer if it is a good one, else what it means.
    pub(super) fn checked(self, name: &Name) -> Result<Self, RegistryError> {
        let (host, name) = (self.host.clone(), name.familiar());
        match self.status {
            200 => Ok(self),
            401 | 403 => Err(RegistryError::Denied { host, name }),
            404 => Err(RegistryError::NotFound { host, name }),
            429 => Err(RegistryError::TooMany(host)),
            status => Err(RegistryError::Status { host, status }),
        }
    }
}

/// A registry that is `near` may do without certificates: if it speaks TLS, it is not trusted then.
fn tls(near: bool) -> Result<TlsConfig, RegistryError> {
    let found = rustls_native_certs::load_native_certs();
    if found.certs.is_empty() && !near {
        let why = found.errors.first().map_or("there are none".to_owned(), ToString::to_string);
        return Err(RegistryError::Certificates(why));
    }
    let certificates = found.certs.iter().map(|der| Certificate::from_der(der).to_owned());
    let roots = RootCerts::Specific(Arc::new(certificates.collect()));
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = TlsConfig::builder().root_certs(roots);
    Ok(config.unversioned_rustls_crypto_provider(provider).build())
}

fn failure(host: &str, error: &ureq::Error) -> RegistryError {
    match error {
        ureq::Error::Timeout(_) => RegistryError::Timeout(host.to_owned()),
        ureq::Error::HostNotFound => {
            let why = "there is no host of this name, or names cannot be looked up".to_owned();
            RegistryError::Connection { host: host.to_owned(), why }
        }
        error if is_certificate(error) => {
            let why = error.to_string().chars().filter(|c| !c.is_control()).take(300).collect();
            RegistryError::Certificate { host: host.to_owned(), why }
        }
        error => {
            let text = match error {
                ureq::Error::Io(error) => error.to_string(),
                error => error.to_string(),
            };
            let why = text.chars().filter(|c| !c.is_control()).take(300).collect();
            RegistryError::Connection { host: host.to_owned(), why }
        }
    }
}

/// Whether the server does speak TLS, but is not who it says.
fn is_certificate(error: &ureq::Error) -> bool {
    let of_tls = |error: &rustls::Error| matches!(error, rustls::Error::InvalidCertificate(_));
    match error {
        ureq::Error::Rustls(error) => of_tls(error),
        ureq::Error::Io(error) => {
            error.get_ref().and_then(|inner| inner.downcast_ref()).is_some_and(of_tls)
        }
        _ => false,
    }
}

fn redirect(to: &str, why: &'static str) -> RegistryError {
    let to = to.chars().take(100).flat_map(char::escape_default).collect();
    RegistryError::Redirect { to, why }
}

/// Where `location`, in an answer from `base`, is.
fn absolute(base: &Uri, location: &str) -> String {
    let scheme = base.scheme_str().unwrap_or_default();
    let authority = base.authority().map(|authority| authority.as_str()).unwrap_or_default();
    if location.starts_with("//") {
        format!("{scheme}:{location}")
    } else if location.starts_with('/') {
        format!("{scheme}://{authority}{location}")
    } else {
        location.to_owned()
    }
}

/// A host without its port, an IPv6 address with its brackets.
fn name_of(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|c| c.is_ascii_digit()) => name,
        _ => host,
    }
}

/// Whether a host is this one, by its name alone: no name service is asked.
fn is_this_host(host: &str) -> bool {
    let name = name_of(host);
    let address = name.trim_start_matches('[').trim_end_matches(']').parse();
    name == "localhost" || address.is_ok_and(|address| Reach::of(address) == Reach::Loopback)
}

/// A body that is given up when it comes too slowly, be it byte by byte.
struct Steady<R> {
    reader: R,
    patience: Duration,
    since: Instant,
    bytes: u64,
}

impl<R> Steady<R> {
    fn new(reader: R, patience: Duration) -> Self {
        Self { reader, patience, since: Instant::now(), bytes: 0 }
    }
}

impl<R: Read> Read for Steady<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.reader.read(buffer)?;
        self.bytes = self.bytes.saturating_add(u64::try_from(count).unwrap_or(u64::MAX));
        let elapsed = self.since.elapsed();
        if elapsed >= self.patience && count > 0 {
            if self.bytes < MIN_RATE.saturating_mul(elapsed.as_secs().max(1)) {
                let why = "it comes with less than a KiB a second";
                return Err(io::Error::new(io::ErrorKind::TimedOut, why));
            }
            (self.since, self.bytes) = (Instant::now(), 0);
        }
        Ok(count)
    }
}
