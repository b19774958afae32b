use proptest::prelude::*;

use super::*;

fn name(text: &str) -> Name {
    text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
}

#[test]
fn names_get_docker_s_defaults() {
    let digest = format!("sha256:{}", "ab".repeat(32));
    let cases = [
        ("alpine", "docker.io/library/alpine:latest", "alpine:latest"),
        ("alpine:3.20", "docker.io/library/alpine:3.20", "alpine:3.20"),
        ("user/app", "docker.io/user/app:latest", "user/app:latest"),
        ("docker.io/alpine", "docker.io/library/alpine:latest", "alpine:latest"),
        ("index.docker.io/a/b", "docker.io/a/b:latest", "a/b:latest"),
        ("localhost/app", "localhost/app:latest", "localhost/app:latest"),
        ("host:5000/name:tag", "host:5000/name:tag", "host:5000/name:tag"),
        ("[::1]:5000/name", "[::1]:5000/name:latest", "[::1]:5000/name:latest"),
        ("quay.io/a/b/c__d-e.f", "quay.io/a/b/c__d-e.f:latest", "quay.io/a/b/c__d-e.f:latest"),
        ("Host/app", "Host/app:latest", "Host/app:latest"),
        ("docker.io/a.b/c", "docker.io/a.b/c:latest", "docker.io/a.b/c:latest"),
        ("library/a/b", "docker.io/library/a/b:latest", "library/a/b:latest"),
        ("docker://alpine", "docker.io/library/alpine:latest", "alpine:latest"),
    ];
    for (text, full, familiar) in cases {
        let Ok(Reference::Registry(name)) = text.parse() else { panic!("{text}") };
        assert_eq!(name.to_string(), full, "{text}");
        assert_eq!(name.familiar(), familiar, "{text}");
    }
    let pinned = name(&format!("alpine@{digest}"));
    assert_eq!(pinned.to_string(), format!("docker.io/library/alpine@{digest}"));
    assert_eq!((pinned.tag(), pinned.digest().unwrap().to_string()), (None, digest.clone()));
    let both = name(&format!("host:1/a:b@{digest}"));
    assert_eq!((both.registry(), both.repository(), both.tag()), ("host:1", "a", Some("b")));
}

/// A9, I1: what is hostile about a name is refused before it gets anywhere.
#[test]
fn hostile_names_are_refused() {
    let long = "a".repeat(256);
    let id = "ab".repeat(32);
    let tag = format!("a:{}", "t".repeat(129));
    let names = [
        "",
        "../x",
        "a/../b",
        "/etc/passwd",
        "a//b",
        "a/",
        "-rf",
        "--help",
        "a b",
        "a\0b",
        "ä",
        "a:",
        "a:-b",
        "a:.b",
        "a@",
        "a@sha256:00",
        "a@md5:d41d8cd98f00b204e9800998ecf8427e",
        "A",
        "a/B",
        "a___b",
        "a..b",
        "a._b",
        ".a",
        "a.",
        "_a",
        "host:0/a",
        "host:65536/a",
        "host:x/a",
        "ho_st.a/a",
        "-h.a/a",
        "h-.a/a",
        "[::1/a",
        "[zz]:1/a",
        "http://host/a",
        "https://host/a",
        "file:///etc/passwd",
        "a:b:c",
        "a\n",
        "\u{1b}[2J",
        "user:pass@host/a",
        "localhost:5000/",
        "..",
        ".",
        &long,
        &id,
        &tag,
        "host:+1/a",
        "a?b",
        "a#b",
        "a%2fb",
    ];
    for text in names {
        let error = text.parse::<Reference>().expect_err(text).to_string();
        assert!(!error.chars().any(char::is_control), "{text:?}: {error:?}");
        assert!(error.len() < 400, "{text}: {error}");
    }
}

#[test]
fn files_and_directories_are_told_from_names() {
    let local = |text: &str| match text.parse() {
        Ok(Reference::Local(local)) => local,
        other => panic!("{text}: {other:?}"),
    };
    let layout = local("oci:/tmp/images");
    assert_eq!((layout.kind, layout.tag), (LocalKind::OciLayout, None));
    let tagged = local("oci:dir/x:v1.2");
    assert_eq!(tagged.path, PathBuf::from("dir/x"));
    assert_eq!(tagged.tag.as_deref(), Some("v1.2"));
    assert_eq!(local("oci-archive:a.tar:x").to_string(), "oci-archive:a.tar:x");
    let saved = local("docker-archive:a.tar:docker.io/library/app:1");
    assert_eq!(saved.tag.as_deref(), Some("app:1"));
    assert_eq!(local("docker-archive:a.tar").kind, LocalKind::DockerArchive);
    for text in ["oci:", "oci::tag", "oci-archive:a\0b", "oci:dir:", "oci:dir:a b", "oci:dir:-x"] {
        assert!(text.parse::<Reference>().is_err(), "{text}");
    }
}

proptest! {
    /// A9: any text is a reference that is written and read back the same, or an error.
    #[test]
    fn any_text_is_an_error_or_reads_back_the_same(text in "[a-zA-Z0-9:/@._\\-\\[\\]\\PC]{0,80}") {
        if let Ok(Reference::Registry(name)) = text.parse::<Reference>() {
            let full = name.to_string();
            prop_assert_eq!(&full.parse::<Name>().unwrap(), &name);
            prop_assert_eq!(&name.familiar().parse::<Name>().unwrap(), &name);
            prop_assert!(full.is_ascii() && !full.contains("..") && !full.starts_with('-'));
        }
    }
}
