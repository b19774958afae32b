//! The report of `vmm bench startup` in all its forms, from one run.

use std::fs;

use serde_json::Value;

use super::world::World;

#[test]
fn start_gives_table_json_and_page_in_one_run() {
    let world = World::new();
    let files = tempfile::tempdir().expect("a directory");
    let file = |name: &str| files.path().join(name).to_str().expect("UTF-8").to_owned();
    let (json, html) = (file("start.json"), file("start.html"));
    let words = [
        "bench",
        "startup",
        "--arms",
        "process,namespaces,youki",
        "--runs",
        "1",
        "--parallel",
        "1,2",
    ];
    let forms = ["--json", &json, "--html", &html, "busybox", "echo", "hello"];
    let table = world.ok(&[&words[..], &forms].concat());
    assert!(table.contains("95 % INTERVAL") && table.contains("namespaces, 2 at once"), "{table}");
    let report: Value = serde_json::from_slice(&fs::read(json).expect("a report")).expect("JSON");
    assert_eq!(report["arms"].as_array().map(Vec::len), Some(3), "{report:#}");
    let page = fs::read_to_string(html).expect("a page");
    let (head, _) = page.split_once("<h2>").expect("sections");
    assert!(head.contains("on an emulated host: only ratios mean anything</h1>"), "{head}");
    assert!(head.contains("Not valid") && head.contains("there are 2 controls"), "{head}");
    assert_eq!(page.matches("<figure>").count(), 4, "distribution, phases twice, bursts");
    assert!(page.contains("youki is not installed") && page.contains("vmm-namespaces"), "{page}");
}
