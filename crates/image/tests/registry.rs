//! Pulling from a real registry: Debian's `docker-registry` on this host, with and without a password.
#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by a panic"
)]
#![expect(unreachable_pub, reason = "a program has no users but its own modules")]

#[path = "../../../tests/support/registry.rs"]
mod registry;
mod support;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::Command;

use serde_json::json;
use support::*;
use vmm_image::store::digest_of;

/// What is sent as `Authorization` by `test`, whose password is `secret`.
const LOGIN: &str = "dGVzdDpzZWNyZXQ=";

/// A registry that serves and is filled by requests.
struct Registry {
    server: registry::Registry,
    login: bool,
}

impl Registry {
    fn start(place: &Place, login: bool) -> Self {
        let server = registry::Registry::start(&place.path("registry"), login, None);
        Self { server, login }
    }

    /// Sends a request, and returns its status and the value of `Location`.
    fn send(&self, method: &str, path: &str, kind: &str, body: &[u8]) -> (u16, String) {
        let mut stream = TcpStream::connect(("127.0.0.1", self.server.port)).unwrap();
        let login =
            if self.login { format!("Authorization: Basic {LOGIN}\r\n") } else { String::new() };
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:{}\r\nConnection: close\r\n{login}Content-Type: {kind}\r\nContent-Length: {}\r\n\r\n",
            self.server.port,
            body.len()
        );
        stream.write_all(head.as_bytes()).unwrap();
        stream.write_all(body).unwrap();
        let mut reader = BufReader::new(stream);
        let mut first = String::new();
        reader.read_line(&mut first).unwrap();
        let status = first.split(' ').nth(1).unwrap().parse().unwrap();
        let mut rest = String::new();
        reader.read_to_string(&mut rest).unwrap();
        let location =
            rest.lines().find_map(|line| line.strip_prefix("Location: ")).unwrap_or_default();
        (status, location.to_owned())
    }

    fn push_blob(&self, repository: &str, bytes: &[u8]) {
        let (status, location) =
            self.send("POST", &format!("/v2/{repository}/blobs/uploads/"), "application/json", b"");
        assert_eq!(status, 202);
        let path = location.split_once("//").map_or(location.as_str(), |(_, rest)| rest);
        let path = &path[path.find('/').unwrap()..];
        let separator = if path.contains('?') { '&' } else { '?' };
        let path = format!("{path}{separator}digest={}", digest_of(bytes));
        assert_eq!(self.send("PUT", &path, "application/octet-stream", bytes).0, 201);
    }

    fn push(&self, repository: &str, tag: &str, image: &Image) {
        image.layers.iter().for_each(|layer| self.push_blob(repository, layer));
        self.push_blob(repository, &image.config_bytes());
        self.push_manifest(repository, tag, MANIFEST, &image.manifest());
    }

    fn push_manifest(&self, repository: &str, tag: &str, kind: &str, bytes: &[u8]) {
        let path = format!("/v2/{repository}/manifests/{tag}");
        assert_eq!(self.send("PUT", &path, kind, bytes).0, 201);
    }

    fn name(&self, rest: &str) -> String {
        format!("127.0.0.1:{}/{rest}", self.server.port)
    }
}

#[test]
fn images_are_pulled_by_tag_and_by_digest_from_a_registry_of_this_host() {
    let place = Place::new();
    let registry = Registry::start(&place, false);
    let image = Image::new("hello", 5);
    registry.push("group/app", "1", &image);
    let manifest = digest_of(&image.manifest());
    let pulled = place.pull(&[&registry.name("group/app:1")]);
    assert_eq!((&pulled["id"], &pulled["digest"]), (&json!(image.id()), &json!(manifest)));
    let store = place.store();
    for name in [registry.name("group/app:1"), registry.name(&format!("group/app@{manifest}"))] {
        assert!(store.find_by_text(&name).unwrap().is_some(), "{name}");
    }
    let pinned = registry.name(&format!("group/app@{manifest}"));
    assert_eq!(place.pull(&[&pinned])["new"], json!(false));

    // A host without certificates has a registry of its own all the same.
    let bare = Place::new();
    let name = registry.name("group/app:1");
    let pulled = bare.command(&[&name]).env("SSL_CERT_FILE", "/dev/null").output().unwrap();
    assert!(pulled.status.success(), "{}", told(&pulled));

    let other = Place::new();
    assert!(other.refused(&[&registry.name("group/app:2")]).contains("has no image"));
    assert!(other.refused(&[&registry.name("nothing")]).contains("has no image"));
    let absent = format!("group/app@{}", digest_of(b"other"));
    assert!(other.refused(&[&registry.name(&absent)]).contains("has no image"));
}

#[test]
fn image_for_the_platform_is_chosen_from_an_index_of_a_registry() {
    let place = Place::new();
    let registry = Registry::start(&place, false);
    let mut entries = Vec::new();
    let mut images = Vec::new();
    for architecture in ["amd64", "arm64"] {
        let mut image = Image::new(architecture, 2);
        image.config["architecture"] = json!(architecture);
        registry.push("app", architecture, &image);
        let mut entry = descriptor(MANIFEST, &image.manifest());
        entry["platform"] = json!({"os": "linux", "architecture": architecture});
        entries.push(entry);
        images.push(image);
    }
    let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": entries}).to_string();
    registry.push_manifest("app", "latest", INDEX, index.as_bytes());
    let pulled = place.pull(&[&registry.name("app"), "--platform", "linux/amd64"]);
    assert_eq!(pulled["id"], json!(images[0].id()));
    assert_eq!(pulled["digest"], json!(digest_of(index.as_bytes())), "what the tag led to");
    let pulled = place.pull(&[&registry.name("app"), "--platform", "linux/arm64"]);
    assert_eq!(pulled["id"], json!(images[1].id()));
}

#[test]
fn registry_with_a_password_is_pulled_from_with_docker_s_login_alone() {
    let place = Place::new();
    let registry = Registry::start(&place, true);
    let image = Image::new("secret", 1);
    registry.push("app", "latest", &image);
    let name = registry.name("app");
    assert!(place.refused(&[&name]).contains("does not allow access"));
    let host = format!("127.0.0.1:{}", registry.server.port);
    let login = |entry: serde_json::Value| {
        std::fs::create_dir_all(place.path("docker")).unwrap();
        std::fs::write(place.path("docker/config.json"), entry.to_string()).unwrap();
    };
    login(json!({"auths": {&host: {"auth": "dGVzdDp3cm9uZw=="}}}));
    assert!(place.refused(&[&name]).contains("does not allow access"));
    login(json!({"auths": {"other:1": {"auth": LOGIN}}}));
    assert!(place.refused(&[&name]).contains("does not allow access"));
    login(json!({"auths": {&host: {"auth": LOGIN}}}));
    let output = place.command(&[&name]).output().unwrap();
    assert!(output.status.success() && !told(&output).contains(LOGIN), "{}", told(&output));
    std::fs::remove_dir_all(place.path("data")).unwrap();

    // The same from a program that keeps passwords, as docker asks it.
    login(json!({"credHelpers": {&host: "kept"}}));
    let program = place.path("bin/docker-credential-kept");
    std::fs::create_dir(place.path("bin")).unwrap();
    let script = format!(
        "#!/bin/sh\nread host\n[ \"$1 $host\" = \"get {host}\" ] || exit 1\necho '{}'\n",
        json!({"ServerURL": host, "Username": "test", "Secret": "secret"})
    );
    std::fs::write(&program, script).unwrap();
    std::fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o755))
        .unwrap();
    let path = format!("{}:{}", place.path("bin").display(), std::env::var("PATH").unwrap());
    let output = place.command(&[&name]).env("PATH", path).output().unwrap();
    assert!(output.status.success(), "{}", told(&output));
}

/// A9, I16: plain HTTP is for this host, or for who allows it.
#[test]
fn registry_of_another_host_has_to_be_encrypted() {
    let place = Place::new();
    let registry = Registry::start(&place, false);
    registry.push("app", "latest", &Image::new("x", 1));
    // Another name for this host, which only a name service could tell.
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap().trim().to_owned();
    let name = format!("{host}.invalid:{}/app", registry.server.port);
    let error = place.refused(&[&name]);
    assert!(error.starts_with(&format!("registry {host}.invalid:")), "{error}");
    let localhost = format!("localhost:{}/app", registry.server.port);
    place.pull(&[&localhost, "--plain-http"]);
}

/// I16: a registry of this host that speaks TLS is spoken to in TLS, and has to be who it says.
#[test]
fn certificate_of_a_registry_has_to_be_trusted() {
    let place = Place::new();
    let [certificate, key] = ["certificate.pem", "key.pem"].map(|name| place.path(name));
    let made = Command::new("openssl")
        .args([
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:prime256v1",
            "-nodes",
        ])
        .args(["-days", "2", "-subj", "/CN=registry", "-addext", "subjectAltName=IP:127.0.0.1"])
        .args(["-addext", "basicConstraints=critical,CA:FALSE", "-keyout"])
        .arg(&key)
        .arg("-out")
        .arg(&certificate)
        .output()
        .expect("openssl");
    assert!(made.status.success(), "{}", told(&made));
    let directory = place.path("registry");
    let server = registry::Registry::start(&directory, false, Some([&certificate, &key]));
    let registry = Registry { server, login: false };
    let name = registry.name("app");
    let error = place.refused(&[&name]);
    assert!(error.contains("cannot be trusted") && error.contains("UnknownIssuer"), "{error}");
    let trusting = place.command(&[&name]).env("SSL_CERT_FILE", &certificate).output().unwrap();
    assert!(told(&trusting).contains("has no image"), "{}", told(&trusting));
    let elsewhere = format!("localhost:{}/app", registry.server.port);
    let wrong = place.command(&[&elsewhere]).env("SSL_CERT_FILE", &certificate).output().unwrap();
    assert!(told(&wrong).contains("not valid for name"), "{}", told(&wrong));
}
