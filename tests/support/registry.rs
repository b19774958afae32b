//! Debian's docker-registry on the loopback interface.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use serde_json::{Value, json};

/// `test` and `secret`, as `htpasswd -B` writes them.
const LOGINS: &str = "test:$2y$05$mdNZGLP7KmaHZg4CYKvJHOuYIjGmk0RolD.h.srVKSXW1eaAuFqM6\n";

/// A registry that serves, which ends with the test.
pub struct Registry {
    child: Child,
    /// Where it listens on 127.0.0.1. The registry takes one that is free: one that was found to be free before
    /// could be somebody else's by then.
    pub port: u16,
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Registry {
    /// Starts one that keeps its files in `place`, a new directory. With `login` it asks for a password; `tls`
    /// names a certificate and its key.
    pub fn start(place: &Path, login: bool, tls: Option<[&Path; 2]>) -> Self {
        fs::create_dir(place).expect("directory");
        let mut config = json!({
            "version": "0.1",
            "log": {"level": "info", "accesslog": {"disabled": true}},
            "storage": {"filesystem": {"rootdirectory": place.join("blobs")}},
            "http": {"addr": "127.0.0.1:0"},
        });
        if login {
            let file = place.join("htpasswd");
            fs::write(&file, LOGINS).expect("logins");
            config["auth"] = json!({"htpasswd": {"realm": "test", "path": file}});
        }
        if let Some([certificate, key]) = tls {
            config["http"]["tls"] = json!({"certificate": certificate, "key": key});
        }
        Self::serve(place, &config)
    }

    fn serve(place: &Path, config: &Value) -> Self {
        let (file, log) = (place.join("registry.yml"), place.join("log"));
        fs::write(&file, config.to_string()).expect("configuration");
        let mut serve = Command::new("docker-registry");
        serve.arg("serve").arg(&file).stdout(Stdio::null());
        serve.stderr(File::create(&log).expect("log"));
        let child = serve.spawn().expect("docker-registry, of the Debian package of that name");
        let mut registry = Self { child, port: 0 };
        for _ in 0..600 {
            sleep(Duration::from_millis(50));
            let said = fs::read_to_string(&log).expect("log");
            if let Some(port) = listening(&said) {
                registry.port = port;
                return registry;
            }
        }
        panic!("docker-registry does not listen: {:?}", fs::read_to_string(&log));
    }
}

/// The port that its log names, in a line that is there as a whole.
fn listening(log: &str) -> Option<u16> {
    let (_, rest) = log.split_once("listening on 127.0.0.1:")?;
    let end = rest.find(|letter: char| !letter.is_ascii_digit())?;
    rest[..end].parse().ok()
}
