//! The pages of `vmm bench startup --html` and `vmm contrast --html`, looked at in a browser: their plots are there and
//! laid out, nothing is cut or covered, nothing is asked for from elsewhere, and no text becomes markup.

#![expect(
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test fails by panicking"
)]

mod driver;
mod isolation;
#[path = "../support/mod.rs"]
mod support;

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use driver::{Browser, View};
use support::{GOOD, World, said};

const LOOK: &str = include_str!("look.js");

/// What somebody might call an image, an arm or a phase.
const EVIL: &str =
    "\"'><script>document.title='gone'</script><img src=x onerror=\"document.title='gone'\">";

const WIDTHS: [u32; 4] = [1280, 760, 390, 320];

fn views() -> impl Iterator<Item = View> {
    let view = |width| [false, true].map(|dark| View { width, height: 900, dark });
    WIDTHS.into_iter().flat_map(view)
}

/// Looks at a page in every way a reader may, and returns what it says; screenshots go below the build's
/// directory.
fn look(browser: &mut Browser, page: &Path, plots: &[&str]) -> String {
    let mut text = String::new();
    let mut papers = vec![];
    for view in views() {
        let events = browser.open(page, view);
        quiet(&events);
        let seen = browser.evaluate(LOOK);
        assert_eq!(seen["wrong"], json!([]), "{view:?}");
        assert_eq!(seen["active"], 0, "{view:?}");
        let shown = seen["plots"].as_array().unwrap();
        let titles: Vec<_> = shown.iter().map(|plot| plot["title"].as_str().unwrap()).collect();
        assert_eq!(titles, plots, "{view:?}");
        for plot in shown {
            let count = |key: &str| plot[key].as_u64().unwrap();
            assert!(count("marks") > 0 && count("texts") > 2, "{plot}");
        }
        papers.push(seen["paper"].clone());
        let name = page.file_stem().unwrap().to_str().unwrap();
        let scheme = if view.dark { "dark" } else { "light" };
        let png = browser.screenshot(view);
        assert!(png.starts_with(b"\x89PNG") && png.len() > 20_000, "{} bytes", png.len());
        fs::write(shots().join(format!("{name}-{}-{scheme}.png", view.width)), png).unwrap();
        text = seen["text"].as_str().unwrap().to_owned();
    }
    papers.dedup();
    assert_eq!(papers.len(), views().count(), "light and dark look the same: {papers:?}");
    heard(browser, plots);
    text
}

fn shots() -> PathBuf {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("pages");
    fs::create_dir_all(&directory).unwrap();
    directory
}

/// Nothing was said on the console, nothing asked for but the page.
fn quiet(events: &[Value]) {
    let loud = ["Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded"];
    let is_loud = |event: &&Value| loud.iter().any(|method| event["method"] == **method);
    let said: Vec<_> = events.iter().filter(is_loud).collect();
    assert!(said.is_empty(), "{said:#?}");
    let asked = events.iter().filter(|event| event["method"] == "Network.requestWillBeSent");
    let asked: Vec<_> = asked.map(|event| &event["params"]["request"]["url"]).collect();
    let [page] = asked.as_slice() else { panic!("asked for {asked:?}") };
    assert!(page.as_str().unwrap().starts_with("file:///"), "{page}");
}

/// Who does not see the plots hears what they show.
fn heard(browser: &mut Browser, plots: &[&str]) {
    let all = browser.heard();
    let images: Vec<_> = all.iter().filter(|[role, ..]| role == "image" || role == "img").collect();
    let names: Vec<_> = images.iter().map(|[_, name, _]| &**name).collect();
    assert_eq!(names, plots);
    assert!(images.iter().all(|[_, _, description]| description.contains(" ms")), "{images:?}");
}

const PLOTS: [&str; 4] = [
    "Distribution of the times of each arm",
    "Mean time of each arm, by phase",
    "Phases of each arm, as shares of its own mean time",
    "Time until the last has ended, by how many were started at once",
];

fn file(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// A real measurement of two runtimes that are scripts; its report and its page.
fn measured(world: &World) -> (Value, PathBuf) {
    let (json, html) = (world.path("report.json"), world.path("measured.html"));
    let words = ["--arms", "runc,crun,youki", "--runs", "8", "--parallel", "1,2,4"];
    let output =
        world.startup(&[&words[..], &["--json", file(&json), "--html", file(&html)]].concat());
    assert!(output.status.success(), "{}", said(&output));
    let table = String::from_utf8(output.stdout).unwrap();
    assert!(table.contains("95 % INTERVAL") && table.contains("runc, 4 at once"), "{table}");
    (serde_json::from_slice(&fs::read(json).unwrap()).unwrap(), html)
}

/// The page that is made again from a report.
fn rendered(world: &World, report: &Value, name: &str) -> PathBuf {
    let (json, html) = (world.path("again.json"), world.path(name));
    fs::write(&json, report.to_string()).unwrap();
    let output = world.command(&["render", file(&json), "--html", file(&html)]).output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
    html
}

/// The report with each text made by somebody who means ill, and more arms, phases and orders of magnitude than
/// any host has.
fn worst(report: &Value) -> Value {
    let mut report = report.clone();
    let arm = report["arms"][0].clone();
    let phases = [
        "start",
        "parse",
        "host objects",
        "kernel",
        "init",
        "exec",
        "first output",
        "run",
        "teardown",
    ];
    let arms = (0..16).map(|number| {
        let mut arm = arm.clone();
        let scale = 3.0_f64.powi(number - 3);
        scale_times(&mut arm, scale);
        let name = format!(
            "{number} {}",
            if number % 2 == 0 { EVIL } else { "a-rather-long-name-of-an-arm" }
        );
        arm["name"] = name.into();
        for key in ["version", "command_line"] {
            arm[key] = EVIL.repeat(4).into();
        }
        arm["prepared"] = json!([EVIL]);
        arm["failures"] = json!([{"round": 1, "cache": "warm", "parallel": 1, "why": EVIL}]);
        let mean = arm["mean"].as_f64().unwrap() / 10.0;
        let phase = |name: &&str| json!({"name": name, "mean": mean});
        arm["phases"] = phases.iter().chain([&EVIL]).map(phase).collect();
        arm
    });
    let mut arms: Vec<Value> = arms.collect();
    arms[15]["interval"] = json!([-1.0, 1e308]);
    arms[15]["samples"] = json!([1e308, 5e-324, -3.0, 0.0]);
    arms[15]["phases"][0]["mean"] = json!(1e308);
    arms[15]["others"][0]["p50"] = json!(-1e308);
    let mut absent = report["arms"][2].clone();
    absent["absent"] = "x".repeat(500).into();
    arms.push(absent);
    report["arms"] = arms.into();
    report["title"] = format!("startup of {EVIL}").into();
    report["image"]["reference"] = EVIL.into();
    report["command"] = json!([EVIL, "y".repeat(300)]);
    report["limitations"] = json!([EVIL]);
    report["prepared"] = json!([EVIL]);
    report["fingerprint"]["cpu"] = EVIL.into();
    report["verdict"]["reasons"] = json!([EVIL, "z".repeat(300)]);
    report["verdict"]["notes"] = json!([EVIL]);
    report
}

/// All times of an arm, times `scale`.
fn scale_times(value: &mut Value, scale: f64) {
    match value {
        Value::Object(map) => {
            let times =
                ["p50", "min", "p90", "p95", "p99", "mean", "interval", "samples", "others"];
            let times = map.iter_mut().filter(|(key, _)| times.contains(&key.as_str()));
            times.for_each(|(_, value)| scale_times(value, scale));
        }
        Value::Array(list) => list.iter_mut().for_each(|value| scale_times(value, scale)),
        Value::Number(number) => *value = (number.as_f64().unwrap() * scale).into(),
        _ => {}
    }
}

#[test]
fn page_has_its_plots_laid_out_and_asks_for_nothing() {
    let world = World::new(&[("runc", GOOD), ("crun", "sleep 0.2; echo hello")]);
    let (report, html) = measured(&world);
    let mut browser = Browser::start();
    let profile = browser.profile();
    let text = look(&mut browser, &html, &PLOTS);
    for part in ["youki is not installed", "runc 1.0", " run --bundle ", "CLOCK_MONOTONIC"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let again = rendered(&world, &report, "again.html");
    assert_eq!(
        fs::read(again).unwrap(),
        fs::read(html).unwrap(),
        "the page is not one of its report alone"
    );
    drop(browser);
    let left = users_of(&profile);
    assert!(left.is_empty(), "the browser left {left:?}");
}

#[test]
fn no_text_becomes_markup_and_many_arms_have_room() {
    let world = World::new(&[("runc", GOOD), ("crun", GOOD)]);
    let (report, _) = measured(&world);
    let page = rendered(&world, &worst(&report), "worst.html");
    let mut browser = Browser::start();
    let text = look(&mut browser, &page, &PLOTS);
    assert!(text.contains(EVIL), "{text}");
    assert!(browser.evaluate("document.title").as_str().unwrap().contains("<script>"));
}

#[test]
fn page_of_a_run_that_measured_nothing_says_so() {
    let world = World::new(&[("runc", "echo broken >&2; exit 1")]);
    let html = world.path("nothing.html");
    let output = world.startup(&["--arms", "runc,youki", "--runs", "1", "--html", file(&html)]);
    assert!(output.status.success(), "{}", said(&output));
    let mut browser = Browser::start();
    let text = look(&mut browser, &html, &[]);
    for part in ["Not valid", "youki is not installed", "broken"] {
        assert!(text.contains(part), "{part}: {text}");
    }
}

/// The command lines of processes that name a directory.
fn users_of(directory: &Path) -> Vec<String> {
    let name = directory.to_str().unwrap();
    let lines = fs::read_dir("/proc").unwrap().filter_map(|entry| {
        let line = fs::read(entry.ok()?.path().join("cmdline")).ok()?;
        Some(String::from_utf8_lossy(&line).replace('\0', " "))
    });
    lines.filter(|line| line.contains(name)).collect()
}
