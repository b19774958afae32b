//! Registries that are hostile, each a thread with a socket.

use std::io::{self, BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use super::*;
use crate::oci::Platform;
use crate::source::registry::reach::Reach;
use crate::store::{Blobs, StorePaths};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// A request: its first line and its `Authorization`.
type Request = (String, Option<String>);

/// A server that answers each request by `answer`, and the requests it has seen.
struct Server {
    port: u16,
    seen: Arc<Mutex<Vec<Request>>>,
}

impl Server {
    fn new(answer: impl Fn(&str, Option<&str>, &mut TcpStream) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (log, answer) = (seen.clone(), Arc::new(answer));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (log, answer) = (log.clone(), answer.clone());
                std::thread::spawn(move || serve(stream.unwrap(), &log, answer.as_ref()));
            }
        });
        Self { port, seen }
    }

    /// One that answers every request with these bytes.
    fn saying(text: String) -> Self {
        Self::new(move |_, _, stream| {
            // The client may have gone.
            let _: io::Result<()> = stream.write_all(text.as_bytes());
        })
    }

    fn seen(&self) -> Vec<Request> {
        self.seen.lock().unwrap().clone()
    }
}

fn serve(
    mut stream: TcpStream,
    seen: &Mutex<Vec<Request>>,
    answer: &(dyn Fn(&str, Option<&str>, &mut TcpStream) + Send + Sync),
) {
    let mut lines = BufReader::new(stream.try_clone().unwrap()).lines().map_while(Result::ok);
    let Some(first) = lines.next() else { return };
    let mut authorization = None;
    for line in lines.take_while(|line| !line.is_empty()) {
        let value = line.to_ascii_lowercase().starts_with("authorization: ");
        authorization = value.then(|| line[15..].to_owned()).or(authorization);
    }
    seen.lock().unwrap().push((first.clone(), authorization.clone()));
    answer(&first, authorization.as_deref(), &mut stream);
}

fn reply(status: &str, head: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: {length}\r\n{head}\r\n{body}"
    )
}

fn password() -> Option<Credentials> {
    Some(Credentials::Password { username: "me".into(), password: "secret".into() })
}

/// A client of the server at `port`, as far away as `reach`, that waits a second.
fn client(port: u16, reach: Option<Reach>, credentials: Option<Credentials>) -> Client {
    let host = format!("127.0.0.1:{port}");
    let patience = Duration::from_secs(1);
    let http = Http::with_reach(&host, true, patience, reach).unwrap();
    Client::with(http, format!("{host}/app").parse().unwrap(), credentials)
}

fn error(client: &Client) -> String {
    let error = client.top().expect_err("refused").to_string();
    assert!(!error.chars().any(char::is_control) && error.len() < 600, "{error}");
    error
}

/// I16: a redirect leads neither out of the web nor to credentials in an address.
#[test]
fn redirects_out_of_the_web_are_not_followed() {
    for location in [
        "file:///etc/passwd",
        "gopher://127.0.0.1/",
        "ftp://127.0.0.1/",
        "javascript:1",
        "http://user:password@127.0.0.1/",
        "http:///",
        "",
        "//",
        "etc/passwd",
    ] {
        let server = Server::saying(reply("307 Moved", &format!("Location: {location}\r\n"), ""));
        let told = error(&client(server.port, None, None));
        assert!(told.ends_with(": not followed"), "{location}: {told}");
        assert_eq!(server.seen().len(), 1);
    }
    let server = Server::saying(reply("307 Moved", "Location: /\u{7f}\u{e9}\r\n", ""));
    assert!(error(&client(server.port, None, None)).contains("invalid header value"));
}

/// I16: an encrypted registry does not lead to one that is not.
#[test]
fn encryption_is_not_given_up_on_the_way() {
    let server = Server::saying(reply("200 OK", "", "{}"));
    let patience = Duration::from_secs(1);
    let http = Http::with_reach("registry.example", false, patience, None).unwrap();
    let url = format!("http://127.0.0.1:{}/v2/", server.port);
    let told = http.get(&url, "*/*", None).err().unwrap().to_string();
    assert!(told.contains("which is not encrypted: not followed"), "{told}");
    assert!(server.seen().is_empty());
}

/// I16: a registry of the Internet leads neither to this host nor to its network.
#[test]
fn redirects_nearer_than_the_registry_are_not_followed() {
    let inner = Server::saying(reply("200 OK", "", "secret"));
    for host in ["127.0.0.1", "localhost", "[::1]", "2130706433", "0.0.0.0"] {
        let location = format!("Location: http://{host}:{}/\r\n", inner.port);
        let outer = Server::saying(reply("302 Found", &location, ""));
        let client = client(outer.port, None, None);
        // As if the registry, which really is here, were far away.
        let far =
            Http::with_reach("registry.example", true, client.http.patience(), Some(Reach::Public));
        let url = format!("http://{host}:{}/", inner.port);
        assert!(far.unwrap().get(&url, "*/*", None).is_err(), "{host}");
    }
    assert!(inner.seen().is_empty());
    let metadata =
        Http::with_reach("127.0.0.1:1", true, Duration::from_secs(1), Some(Reach::Loopback));
    let told = metadata.unwrap().get("http://169.254.169.254/latest/", "*/*", None).err().unwrap();
    assert!(told.to_string().contains("nearer to this host"), "{told}");
}

/// I16: redirects without end are left after a few.
#[test]
fn redirects_without_end_are_left() {
    let server = Server::new(|first, _, stream| {
        let next = format!("Location: {}x\r\n", first.split(' ').nth(1).unwrap());
        stream.write_all(reply("307 Moved", &next, "").as_bytes()).unwrap();
    });
    assert!(error(&client(server.port, None, None)).contains("after too many others"));
    assert!(server.seen().len() <= 7);
}

/// I16: who we are is told to the registry, and to nobody that it leads to.
#[test]
fn password_is_not_told_to_another_host() {
    let other = Server::saying(reply("200 OK", &format!("Content-Type: {MANIFEST}\r\n"), "{}"));
    let location = format!("Location: http://localhost:{}/x\r\n", other.port);
    let registry = Server::new(move |_, authorization, stream| {
        let answer = match authorization {
            None => reply("401 No", "WWW-Authenticate: Basic realm=\"x\"\r\n", ""),
            Some(_) => reply("307 Moved", &location, ""),
        };
        stream.write_all(answer.as_bytes()).unwrap();
    });
    client(registry.port, None, password()).top().unwrap();
    assert_eq!(registry.seen()[1].1.as_deref(), Some("Basic bWU6c2VjcmV0"));
    assert_eq!(other.seen()[0].1, None);
}

/// I16: a realm of another host gets no password, and one that is not on the web is not asked.
#[test]
fn realm_of_another_host_gets_no_password() {
    let thief = Server::saying(reply("200 OK", "", r#"{"token": "t"}"#));
    for (realm, sign) in [
        (format!("http://localhost:{}/token", thief.port), "go to another host"),
        (format!("https://localhost:{}/token", thief.port), "go to another host"),
        ("file:///etc/passwd".to_owned(), "no address"),
        ("ftp://127.0.0.1/token".to_owned(), "not on the web"),
        ("not an address".to_owned(), "no address"),
        (String::new(), "no address"),
    ] {
        let challenge = format!("WWW-Authenticate: Bearer realm=\"{realm}\",service=\"x\"\r\n");
        let registry = Server::saying(reply("401 No", &challenge, ""));
        let told = error(&client(registry.port, None, password()));
        assert!(told.contains(sign), "{realm}: {told}");
    }
    assert!(thief.seen().is_empty());
}

/// A token is asked for by what is needed, whatever the registry says, and used.
#[test]
fn token_is_for_pulling_this_image_alone() {
    let registry = Server::new(|first, authorization, stream| {
        let port = stream.local_addr().unwrap().port();
        let answer = if first.starts_with("GET /token") {
            reply("200 OK", "", r#"{"access_token": "abc"}"#)
        } else if authorization == Some("Bearer abc") {
            reply("200 OK", &format!("Content-Type: {MANIFEST}\r\n"), "{}")
        } else {
            let scope = "repository:other:push,pull registry:catalog:*";
            let realm = format!("http://127.0.0.1:{port}/token");
            let head = format!(
                "WWW-Authenticate: Bearer realm=\"{realm}\",service=\"a b\",scope=\"{scope}\"\r\n"
            );
            reply("401 No", &head, "")
        };
        stream.write_all(answer.as_bytes()).unwrap();
    });
    client(registry.port, None, password()).top().unwrap();
    let (token, authorization) = registry.seen()[1].clone();
    assert_eq!(token, "GET /token?service=a%20b&scope=repository%3Aapp%3Apull HTTP/1.1");
    assert_eq!(authorization.as_deref(), Some("Basic bWU6c2VjcmV0"));
}

/// I16: tokens that are no text of a header are refused.
#[test]
fn tokens_that_are_none_are_refused() {
    for body in
        ["", "{}", "[]", r#"{"token": ""}"#, r#"{"token": "a\r\nHost: x"}"#, r#"{"token": 1}"#]
    {
        let body = body.to_owned();
        let registry = Server::new(move |first, _, stream| {
            let port = stream.local_addr().unwrap().port();
            let realm =
                format!("WWW-Authenticate: Bearer realm=\"http://127.0.0.1:{port}/token\"\r\n");
            let is_token = first.starts_with("GET /token");
            let answer =
                if is_token { reply("200 OK", "", &body) } else { reply("401 No", &realm, "") };
            stream.write_all(answer.as_bytes()).unwrap();
        });
        assert!(
            error(&client(registry.port, None, None)).starts_with("no token for this registry")
        );
    }
}

/// I16: a manifest, a head or a list of 4 GiB is read as far as its bound.
#[test]
fn documents_without_end_are_read_to_their_bound() {
    for (head, body) in [
        ("HTTP/1.1 200 OK\r\nContent-Length: 4294967296\r\n\r\n", "x"),
        ("HTTP/1.1 200 OK\r\n\r\n", "x"),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", "400\r\n"),
        ("HTTP/1.1 200 OK\r\n", "X: y\r\n"),
        ("HTTP/1.1 200 OK\r\nX: ", "y"),
        ("", "\u{0}"),
    ] {
        let server = Server::new(move |_, _, stream| {
            let piece = if body.starts_with("400") {
                format!("400\r\n{}\r\n", "x".repeat(1024))
            } else {
                body.repeat(1024)
            };
            let mut sent = stream.write_all(head.as_bytes());
            for _ in 0..64 << 10 {
                if sent.is_err() {
                    return;
                }
                sent = stream.write_all(piece.as_bytes());
            }
        });
        let start = Instant::now();
        let told = error(&client(server.port, None, None));
        assert!(start.elapsed() < Duration::from_secs(20), "{head:?}: {told}");
    }
}

/// I16: whoever trickles is left: before, within and after the head of an answer.
#[test]
fn servers_that_trickle_are_left() {
    for head in ["", "HTTP/1.1 200 OK\r\nX: ", "HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n"]
    {
        let server = Server::new(move |_, _, stream| {
            let mut sent = stream.write_all(head.as_bytes());
            while sent.is_ok() {
                std::thread::sleep(Duration::from_millis(100));
                sent = stream.write_all(b"x");
            }
        });
        let start = Instant::now();
        let told = error(&client(server.port, None, None));
        assert!(start.elapsed() < Duration::from_secs(10), "{head:?}: {told}");
        let signs = ["in time", "less than a KiB a second"];
        assert!(
            head.is_empty() || signs.iter().any(|sign| told.contains(sign)),
            "{head:?}: {told}"
        );
    }
    let silent = Server::new(|_, _, _| std::thread::sleep(Duration::from_secs(30)));
    assert!(error(&client(silent.port, None, None)).contains("did not answer in time"));
}

/// I10, I16: a body that goes on after its size, ends before it or is another one is not kept.
#[test]
fn blobs_that_are_not_as_announced_are_not_kept() {
    let directory = tempfile::tempdir().unwrap();
    let blobs = Blobs::new(StorePaths::new(directory.path()));
    for (body, sign) in
        [("abcdef", "longer than"), ("ab", "1 bytes before"), ("abd", "was damaged or exchanged")]
    {
        for chunked in [false, true] {
            let server = Server::saying(match chunked {
                false => reply("200 OK", "", body),
                true => {
                    let length = body.len();
                    format!(
                        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{length:x}\r\n{body}\r\n0\r\n\r\n"
                    )
                }
            });
            let client = client(server.port, None, None);
            let blob = crate::store::Blob { digest: digest_of(b"abc"), size: 3 };
            let descriptor: Descriptor = serde_json::from_value(serde_json::json!({
                "mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": blob.digest, "size": 3,
            }))
            .unwrap();
            let open = || client.blob(&descriptor).map_err(crate::fetch::FetchError::from);
            let told = blobs.put(blob, open, || (), |_| ()).expect_err(body).to_string();
            assert!(told.contains(sign), "{body}: {told}");
            assert!(!blobs.has(blob));
        }
    }
}

/// I10: a manifest that is not the one of the digest asked for, or is handed out as another thing.
#[test]
fn manifests_that_are_exchanged_are_refused() {
    let server = Server::saying(reply("200 OK", &format!("Content-Type: {MANIFEST}\r\n"), "{}"));
    let host = format!("127.0.0.1:{}", server.port);
    let http = Http::with_reach(&host, true, Duration::from_secs(1), None).unwrap();
    let name = format!("{host}/app@{}", digest_of(b"other")).parse().unwrap();
    assert!(error(&Client::with(http, name, None)).contains("not what its digest says"));
    let html = Server::saying(reply("200 OK", "Content-Type: text/html\r\n", "{}"));
    let client = client(html.port, None, None);
    let directory = tempfile::tempdir().unwrap();
    let blobs = Blobs::new(StorePaths::new(directory.path()));
    let progress = crate::helper::progress::Progress::new(crate::helper::progress::Mode::Quiet);
    let told = crate::fetch::fetch(&client, &blobs, &Platform::host(), &progress);
    assert!(told.is_err());
}

#[test]
fn answers_that_are_no_image_are_told_in_words() {
    for (status, sign) in [
        ("404 Not Found", "has no image"),
        ("403 Forbidden", "does not allow access"),
        ("401 No", "no kind of login"),
        ("429 Too Many", "had enough requests"),
        ("500 Internal", "status 500"),
        ("204 No Content", "status 204"),
    ] {
        let server = Server::saying(reply(status, "", ""));
        let told = error(&client(server.port, None, None));
        assert!(told.contains(sign), "{status}: {told}");
    }
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    assert!(error(&client(closed, None, None)).contains("refused"));
}
