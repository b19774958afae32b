//! `vmm bench`, which measures what is here side by side.

use serde_json::Value;

use super::world::World;

#[test]
fn startup_is_measured_in_every_arm_that_is_here() {
    let world = World::new();
    let text = world
        .ok(&["bench", "startup", "--runs", "2", "--format", "json", "busybox", "echo", "hello"]);
    let report: Value = serde_json::from_str(&text).expect("a report");
    let title = report["title"].as_str().expect("title");
    assert!(title.contains("emulated host"), "{title}");
    assert_eq!(report["fingerprint"]["kvm"], "hardware", "{report:#}");
    let arms = report["arms"].as_array().expect("arms");
    let arm = |name: &str| arms.iter().find(|arm| arm["name"] == name).expect(name);
    for name in ["process", "namespaces", "runc", "crun", "vmm"] {
        let arm = arm(name);
        assert_eq!((&arm["runs"], &arm["failures"]), (&2.into(), &Value::Array(vec![])), "{arm:#}");
        assert!(arm["first_output_p50"].as_f64().expect("it prints") > 0.0);
        let phases = arm["phases"].as_array().expect("phases").iter();
        let sum: f64 = phases.map(|phase| phase["mean"].as_f64().expect("mean")).sum();
        assert!((sum - arm["mean"].as_f64().expect("mean")).abs() < 1e-6, "{arm:#}");
    }
    for name in ["runc", "crun"] {
        let phases = arm(name)["phases"].as_array().expect("phases");
        let found = phases.iter().filter(|found| found["mean"].as_f64() > Some(0.0));
        let names: Vec<_> = found.filter_map(|found| found["name"].as_str()).collect();
        assert!(names.starts_with(&["start", "init", "first output", "run"]), "{name}: {names:?}");
    }
    for phase in ["host objects", "kernel", "init", "exec", "run", "teardown"] {
        let phases = arm("vmm")["phases"].as_array().expect("phases");
        let found = phases.iter().find(|found| found["name"] == phase).expect(phase);
        assert!(found["mean"].as_f64().expect("mean") > 0.0, "{found:#}");
    }
    assert_eq!(arm("podman")["absent"], "podman is not installed");
    assert_eq!(world.ok(&["ps", "--all", "--quiet"]), "");
}
