//! A browser without a window, told what to do through its developer tools' protocol on a pipe.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use rustix::process::{Pid, Signal, kill_process_group};
use serde_json::{Value, json};
use tempfile::TempDir;

/// Debian's package of that name has it.
const PROGRAM: &str = "chromium";

/// The protocol's pipes are 3 and 4; the standard streams become those.
const LAUNCH: &str = "exec \"$@\" 3<&0 4>&1 0</dev/null 1>&2";

const FLAGS: [&str; 11] = [
    "--headless=new",
    "--remote-debugging-pipe",
    "--no-sandbox",
    "--no-first-run",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-breakpad",
    "--disable-extensions",
    "--hide-scrollbars",
];

/// No answer takes so long on the slowest machine we know.
const PATIENCE: Duration = Duration::from_secs(180);

/// What a page is looked at with.
#[derive(Clone, Copy, Debug)]
pub(crate) struct View {
    pub(crate) width: u32,
    pub(crate) height: u32,
    pub(crate) dark: bool,
}

/// A running browser with one page. Dropping it ends all of its processes.
pub(crate) struct Browser {
    child: Child,
    input: ChildStdin,
    messages: Receiver<Value>,
    session: Option<String>,
    number: u64,
    events: Vec<Value>,
    profile: TempDir,
}

impl Browser {
    pub(crate) fn start() -> Self {
        let profile = tempfile::tempdir().unwrap();
        let mut command = Command::new("sh");
        command.args(["-c", LAUNCH, "sh", PROGRAM]).args(FLAGS);
        command.arg(format!("--user-data-dir={}", profile.path().display())).arg("about:blank");
        command.env("HOME", profile.path()).env("TMPDIR", profile.path());
        command.env_remove("DISPLAY").process_group(0);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        command.stderr(fs::File::create(profile.path().join("errors")).unwrap());
        let mut child = command.spawn().unwrap();
        let (input, output) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        let (sender, messages) = channel();
        thread::spawn(move || {
            for message in BufReader::new(output).split(0) {
                let message = message.ok().and_then(|text| serde_json::from_slice(&text).ok());
                if message.is_none_or(|message: Value| sender.send(message).is_err()) {
                    return;
                }
            }
        });
        let (session, number, events) = (None, 0, vec![]);
        let mut browser = Self { child, input, messages, session, number, events, profile };
        let target = browser.call("Target.createTarget", &json!({"url": "about:blank"}));
        let words = json!({"targetId": target["targetId"], "flatten": true});
        let attached = browser.call("Target.attachToTarget", &words);
        browser.session = attached["sessionId"].as_str().map(str::to_owned);
        for domain in ["Page", "Runtime", "Log", "Network", "Accessibility"] {
            browser.call(&format!("{domain}.enable"), &json!({}));
        }
        browser
    }

    /// Where its processes have their files.
    pub(crate) fn profile(&self) -> PathBuf {
        self.profile.path().to_owned()
    }

    /// Shows a file; what happened until it was there.
    pub(crate) fn open(&mut self, page: &Path, view: View) -> Vec<Value> {
        let View { width, height, dark } = view;
        let size =
            json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": false});
        self.call("Emulation.setDeviceMetricsOverride", &size);
        let scheme = if dark { "dark" } else { "light" };
        let media = json!({"features": [{"name": "prefers-color-scheme", "value": scheme}]});
        self.call("Emulation.setEmulatedMedia", &media);
        self.events.clear();
        let url = format!("file://{}", page.display());
        let answer = self.call("Page.navigate", &json!({ "url": url }));
        assert_eq!(answer["errorText"], Value::Null, "{answer}");
        self.wait(|message| message["method"] == "Page.loadEventFired");
        // What follows the load comes before the answer to this.
        self.evaluate("new Promise(done => requestAnimationFrame(() => setTimeout(done, 50)))");
        std::mem::take(&mut self.events)
    }

    /// The value of an expression, or of what it promises.
    pub(crate) fn evaluate(&mut self, expression: &str) -> Value {
        let words = json!({"expression": expression, "returnByValue": true, "awaitPromise": true});
        let mut answer = self.call("Runtime.evaluate", &words);
        assert_eq!(answer["exceptionDetails"], Value::Null, "{answer:#}");
        answer["result"]["value"].take()
    }

    /// What those are told who do not see the page: each thing's role, name and description.
    pub(crate) fn heard(&mut self) -> Vec<[String; 3]> {
        let tree = self.call("Accessibility.getFullAXTree", &json!({}));
        let text = |node: &Value, key: &str| node[key]["value"].as_str().unwrap_or("").to_owned();
        let all = |node: &Value| ["role", "name", "description"].map(|key| text(node, key));
        tree["nodes"].as_array().unwrap().iter().map(all).collect()
    }

    /// The whole page as PNG.
    pub(crate) fn screenshot(&mut self, view: View) -> Vec<u8> {
        let height = self.evaluate("document.documentElement.scrollHeight");
        let clip = json!({"x": 0, "y": 0, "width": view.width, "height": height, "scale": 1});
        let words = json!({"format": "png", "captureBeyondViewport": true, "clip": clip});
        let answer = self.call("Page.captureScreenshot", &words);
        BASE64_STANDARD.decode(answer["data"].as_str().unwrap()).unwrap()
    }

    fn call(&mut self, method: &str, words: &Value) -> Value {
        self.number += 1;
        let number = self.number;
        let mut message = json!({"id": number, "method": method, "params": words});
        if let Some(session) = &self.session {
            message["sessionId"] = session.as_str().into();
        }
        self.input.write_all(format!("{message}\0").as_bytes()).expect("chromium listens");
        let mut answer = self.wait(|message| message["id"] == number);
        assert_eq!(answer["error"], Value::Null, "{method}: {answer}");
        answer["result"].take()
    }

    /// The first message that is `wanted`, among those kept and those to come.
    fn wait(&mut self, wanted: impl Fn(&Value) -> bool) -> Value {
        if let Some(found) = self.events.iter().find(|message| wanted(message)) {
            return found.clone();
        }
        let deadline = Instant::now() + PATIENCE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let message = self.messages.recv_timeout(left).unwrap_or_else(|error| {
                let said = fs::read_to_string(self.profile.path().join("errors"));
                panic!("{PROGRAM} does not answer ({error}); is it installed? {said:?}")
            });
            if wanted(&message) {
                return message;
            }
            self.events.push(message);
        }
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // A group that is gone already is what is wanted.
        let _ = kill_process_group(Pid::from_child(&self.child), Signal::KILL);
        let _ = self.child.wait();
    }
}
