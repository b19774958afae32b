use serde_json::{Value, json};

use super::*;

const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";

fn descriptor(media_type: &str, size: u64) -> Value {
    json!({"mediaType": media_type, "digest": format!("sha256:{}", "a".repeat(64)), "size": size})
}

fn manifest(layers: usize) -> Value {
    json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": descriptor(CONFIG, 10),
        "layers": vec![descriptor(LAYER, 10); layers],
    })
}

fn parse(value: &Value, declared: Option<&str>) -> Result<Document, DocumentError> {
    parse_document(value.to_string().as_bytes(), declared)
}

fn refused(value: &Value, declared: Option<&str>) -> String {
    let error = parse(value, declared).expect_err("refused").to_string();
    assert!(!error.chars().any(char::is_control) && error.len() < 500, "{error}");
    error
}

#[test]
fn manifests_and_indexes_of_both_kinds_are_read() {
    assert!(
        matches!(parse(&manifest(3), Some(MANIFEST)), Ok(Document::Manifest(m)) if m.layers.len() == 3)
    );
    let mut docker = manifest(1);
    docker["mediaType"] = json!("application/vnd.docker.distribution.manifest.v2+json");
    docker["config"]["mediaType"] = json!("application/vnd.docker.container.image.v1+json");
    docker["layers"][0]["mediaType"] = json!("application/vnd.docker.image.rootfs.diff.tar.gzip");
    assert!(matches!(parse(&docker, None), Ok(Document::Manifest(_))));
    let index = json!({"schemaVersion": 2, "manifests": [descriptor(MANIFEST, 1)]});
    assert!(matches!(parse(&index, Some(INDEX)), Ok(Document::Index(i)) if i.manifests.len() == 1));
}

/// I11: a document that could be two things is neither.
#[test]
fn ambiguous_documents_are_refused() {
    for (key, value) in [("manifests", json!([])), ("manifests", json!([descriptor(MANIFEST, 1)]))]
    {
        let mut both = manifest(1);
        both[key] = value;
        assert!(refused(&both, None).contains("ambiguous"));
        both.as_object_mut().unwrap().remove("config");
        assert!(refused(&both, None).contains("ambiguous"));
    }
    let twice = br#"{"schemaVersion":2,"manifests":[],"manifests":[]}"#;
    assert!(parse_document(twice, None).expect_err("twice").to_string().contains("duplicate"));
    assert!(refused(&json!({"schemaVersion": 2, "layers": []}), None).contains("neither"));
    assert!(refused(&json!({"schemaVersion": 2}), None).contains("neither"));
    assert!(refused(&json!({"schemaVersion": 3, "manifests": []}), None).contains("neither"));
}

/// I11: what a document is handed out as, what it says of itself and what it is must agree.
#[test]
fn media_types_that_lie_are_refused() {
    assert!(refused(&manifest(1), Some(INDEX)).contains("handed out as"));
    let docker = "application/vnd.docker.distribution.manifest.v2+json";
    assert!(refused(&manifest(1), Some(docker)).contains("by its own word"));
    assert!(refused(&manifest(1), Some("text/html")).contains("text/html"));
    assert!(refused(&manifest(1), Some("\u{1b}[2J")).contains("u{1b}"));
    let mut liar = manifest(1);
    liar["mediaType"] = json!(INDEX);
    assert!(refused(&liar, None).contains("handed out as"));
    for kind in ["application/vnd.oci.empty.v1+json", "text/plain", LAYER] {
        let mut artifact = manifest(1);
        artifact["config"]["mediaType"] = json!(kind);
        assert!(refused(&artifact, None).contains(kind));
    }
    let mut foreign = manifest(1);
    foreign["layers"][0]["mediaType"] = json!("application/vnd.in-toto+json");
    assert!(refused(&foreign, None).contains("in-toto"));
    let mut signature = manifest(1);
    signature["artifactType"] = json!("application/vnd.example.signature");
    assert!(refused(&signature, None).contains("signature"));
    let old = json!({"schemaVersion": 1, "fsLayers": [{"blobSum": "x"}]});
    assert!(refused(&old, None).contains("first schema"));
}

/// I12, I15, I16: counts and sizes have bounds, and nothing is no image.
#[test]
fn counts_and_sizes_beyond_the_bounds_are_refused() {
    assert!(refused(&manifest(0), None).contains("no layers"));
    assert!(parse(&manifest(MAX_LAYERS), None).is_ok());
    assert!(refused(&manifest(MAX_LAYERS + 1), None).contains("128 layers"));
    assert!(refused(&manifest(10_000), None).contains("10000 layers"));
    let mut large = manifest(1);
    large["config"]["size"] = json!(4_u64 << 30);
    assert!(refused(&large, None).contains("configuration has 4294967296 bytes"));
    large["config"]["size"] = json!(1);
    large["layers"][0]["size"] = json!(u64::MAX);
    assert!(refused(&large, None).contains("layer has 18446744073709551615 bytes"));
    for size in [json!(-1), json!(1.5), json!("1"), json!(null), json!(1e30)] {
        large["layers"][0]["size"] = size;
        assert!(refused(&large, None).contains("manifest is not as"));
    }
    let nested = "[".repeat(100_000);
    assert!(parse_document(nested.as_bytes(), None).is_err());
}

/// I10, A9: a digest that is no digest never becomes a file name.
#[test]
fn digests_of_another_form_are_refused() {
    for digest in ["sha256:../../../etc/passwd", "sha512:00", "", "sha256:A", "../x"] {
        let mut hostile = manifest(1);
        hostile["layers"][0]["digest"] = json!(digest);
        assert!(refused(&hostile, None).contains("no digest"), "{digest}");
    }
}

fn config(value: &Value) -> Result<Configuration, DocumentError> {
    parse_config(value.to_string().as_bytes())
}

fn configuration() -> Value {
    json!({
        "architecture": "amd64", "os": "linux", "created": "1970-01-01T00:01:00Z",
        "config": {
            "Env": ["PATH=/bin", "EMPTY="], "Entrypoint": null, "Cmd": ["sh", "-c", ""],
            "User": "1000:1000", "WorkingDir": "/srv", "Labels": {"a": "$(reboot)"},
            "StopSignal": "SIGINT", "ExposedPorts": {"80/tcp": {}}, "Volumes": {"/data": {}},
            "Healthcheck": {"Test": ["NONE"]},
        },
        "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{}", "b".repeat(64))]},
        "history": [{"empty_layer": true}],
    })
}

#[test]
fn configuration_is_read_as_docker_writes_it() {
    let read = config(&configuration()).unwrap();
    assert_eq!(read.image.cmd, ["sh", "-c", ""]);
    assert!(read.image.entrypoint.is_empty());
    assert_eq!(read.image.exposed_ports, ["80/tcp"]);
    assert_eq!(read.image.volumes, ["/data"]);
    assert_eq!(read.image.stop_signal.as_deref(), Some("SIGINT"));
    assert_eq!(read.created, Some(60));
    assert!(read.platform.suits(&"linux/amd64".parse().unwrap()));
    let mut bare = configuration();
    bare["config"] = json!(null);
    assert_eq!(config(&bare).unwrap().image.env, Vec::<String>::new());
}

/// I10, I15: a configuration without layers, or with texts that no process can have, is refused.
#[test]
fn configurations_that_cannot_be_run_are_refused() {
    let with = |pointer: &str, value: Value| {
        let mut hostile = configuration();
        *hostile.pointer_mut(pointer).unwrap() = value;
        config(&hostile).expect_err(pointer).to_string()
    };
    assert!(with("/rootfs/diff_ids", json!([])).contains("no layers"));
    assert!(with("/rootfs/type", json!("path")).contains("no layers"));
    assert!(with("/rootfs/diff_ids/0", json!("sha256:../x")).contains("no digest"));
    assert!(with("/config/Env/0", json!("A=\0")).contains("`Env`"));
    assert!(with("/config/Env/0", json!("=x")).contains("`Env`"));
    assert!(with("/config/Cmd/0", json!("a\0b")).contains("`Cmd`"));
    assert!(with("/config/WorkingDir", json!("\0")).contains("`WorkingDir`"));
    assert!(with("/config/User", json!(0)).contains("not as the specification"));
    assert!(with("/config/Env", json!("PATH=/")).contains("not as the specification"));
}

#[test]
fn platforms_suit_by_system_processor_and_a_variant_both_name() {
    let platform = |text: &str| text.parse::<Platform>().unwrap();
    assert!(platform("linux/arm64/v8").suits(&platform("linux/arm64")));
    assert!(platform("linux/arm64").suits(&platform("linux/arm64/v8")));
    assert!(!platform("linux/arm/v6").suits(&platform("linux/arm/v7")));
    assert!(!platform("windows/amd64").suits(&platform("linux/amd64")));
    for text in
        ["", "linux", "linux/", "/amd64", "linux/amd64/", "linux//amd64", "a/b/c/d", "linux/../x"]
    {
        assert!(text.parse::<Platform>().is_err(), "{text}");
    }
}
