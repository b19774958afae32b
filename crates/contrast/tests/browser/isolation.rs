//! The page of `vmm contrast`.

use std::fs;
use std::path::PathBuf;

use serde_json::{Value, json};

use super::driver::Browser;
use super::support::{self, World, said};
use super::{EVIL, file, look, rendered};

/// A report of a real container, of no machine, and its page.
fn measured(world: &World) -> (Value, PathBuf) {
    support::build_programs();
    let (json, html) = (world.path("contrast.json"), world.path("contrast.html"));
    let words = ["--json", file(&json), "--html", file(&html), "box"];
    let output = world.contrast(&words).output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
    (serde_json::from_slice(&fs::read(json).unwrap()).unwrap(), html)
}

fn world() -> World {
    World::new(&[("vmm", "echo 'vmm: no machine here' >&2; exit 125")])
}

/// The report with each text made by somebody who means ill.
fn worst(report: &Value) -> Value {
    let mut report = report.clone();
    for line in report["lines"].as_array_mut().unwrap() {
        for text in
            ["/group", "/what", "/how", "/host", "/container/value", "/container/says", "/vm/says"]
        {
            *line.pointer_mut(text).unwrap() = EVIL.into();
        }
    }
    for column in report["columns"].as_array_mut().unwrap() {
        for text in ["made_by", "version", "failed"] {
            column[text] = EVIL.repeat(4).into();
        }
        column["command_lines"] = json!([EVIL, "y".repeat(300)]);
        column["surface"] = json!({"calls": {EVIL: 1}, "ioctls": {"z".repeat(300): 2}});
    }
    for list in ["unexpected", "prepared", "limitations"] {
        report[list] = json!([EVIL, "x".repeat(300)]);
    }
    report["title"] = format!("isolation of {EVIL}").into();
    report
}

#[test]
fn page_of_contrast_is_laid_out_and_asks_for_nothing() {
    let world = world();
    let (report, html) = measured(&world);
    let mut browser = Browser::start();
    let text = look(&mut browser, &html, &[]);
    for line in report["lines"].as_array().unwrap() {
        let what = line["what"].as_str().unwrap();
        assert!(text.contains(what), "{what}: {text}");
    }
    for part in ["vmm: no machine here", "container: ", "vmm-namespaces", "not measured"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let again = rendered(&world, &report, "contrast-again.html");
    assert_eq!(fs::read(again).unwrap(), fs::read(html).unwrap());
}

#[test]
fn no_text_of_contrast_becomes_markup() {
    let world = world();
    let (report, _) = measured(&world);
    let page = rendered(&world, &worst(&report), "contrast-worst.html");
    let mut browser = Browser::start();
    let text = look(&mut browser, &page, &[]);
    assert!(text.contains(EVIL), "{text}");
    assert!(browser.evaluate("document.title").as_str().unwrap().contains("<script>"));
}
