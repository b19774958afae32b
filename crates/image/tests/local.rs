//! Images in files and directories: what is taken in, and what is refused.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by a panic")]

mod support;

use serde_json::json;
use support::*;
use vmm_image::store::{check_rootfs, digest_of};

#[test]
fn image_of_a_layout_is_taken_in_whole_and_found_by_every_name() {
    let place = Place::new();
    let image = Image::new("hello", 3);
    layout(&place.path("images"), &[("v1", &image)]);
    let pulled = place.pull(&["oci:images:v1", "--name", "app", "--name", "host:5000/app:2"]);
    assert_eq!(pulled["id"], json!(image.id()));
    assert_eq!(pulled["new"], json!(true));
    let store = place.store();
    for name in ["app", "host:5000/app:2", &image.id().short()] {
        let found = store.find_by_text(name).unwrap().unwrap_or_else(|| panic!("{name}"));
        assert_eq!(found.id, image.id());
        assert_eq!(found.config.cmd, ["/file0"]);
        check_rootfs(&found).unwrap();
    }
    // A path is a name only where there is no other.
    let source = format!("oci:{}:v1", place.path("images").display());
    assert!(store.find_by_text(&source).unwrap().is_none());
    assert_eq!(place.pull(&["oci:images:v1"])["new"], json!(false), "the file system is there");
    assert!(store.find_by_text(&source).unwrap().is_some());
    assert_eq!(place.unfinished(), 0);
}

#[test]
fn the_same_image_is_the_same_from_every_kind_of_source() {
    let place = Place::new();
    let tars = [tar(&[("a", b"1")]), tar(&[("b", b"2")])];
    let image = Image::of_tars(&tars);
    layout(&place.path("images"), &[("latest", &image), ("docker.io/library/app:2", &image)]);
    archive(&place.path("images"), &place.path("images.tar"));
    docker_archive(&place.path("saved.tar"), &[(&["app:1", "app:2"], &image)], &tars);
    docker_archive(&place.path("zipped.tar"), &[(&[], &image)], &image.layers);
    for source in [
        "oci:images",
        "oci:images:2",
        "oci:images:app:2",
        "oci-archive:images.tar",
        "oci-archive:images.tar:latest",
        "docker-archive:saved.tar",
        "docker-archive:saved.tar:app:2",
        "docker-archive:saved.tar:1",
        "docker-archive:zipped.tar",
    ] {
        assert_eq!(place.pull(&[source])["id"], json!(image.id()), "{source}");
    }
    assert_eq!(std::fs::read_dir(place.paths().rootfs()).unwrap().count(), 1);
}

#[test]
fn image_for_the_platform_is_chosen_through_nested_indexes() {
    let place = Place::new();
    let images: Vec<Image> = ["amd64", "arm64"]
        .map(|architecture| {
            let mut image = Image::new(architecture, 1);
            image.config["architecture"] = json!(architecture);
            image
        })
        .into();
    let path = place.path("images");
    let mut entries = vec![json!({
        "mediaType": MANIFEST, "digest": digest_of(b"x"), "size": 1,
        "platform": {"os": "unknown", "architecture": "unknown"},
    })];
    for (image, architecture) in images.iter().zip(["amd64", "arm64"]) {
        image.blobs().iter().for_each(|blob| write_blob(&path, blob));
        let mut entry = descriptor(MANIFEST, &image.manifest());
        entry["platform"] = json!({"os": "linux", "architecture": architecture});
        entries.push(entry);
    }
    let inner = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": entries}).to_string();
    write_blob(&path, inner.as_bytes());
    let outer = json!({"schemaVersion": 2, "manifests": [descriptor(INDEX, inner.as_bytes())]});
    write_index(&path, &outer);
    for (image, platform) in images.iter().zip(["linux/amd64", "linux/arm64"]) {
        assert_eq!(place.pull(&["oci:images", "--platform", platform])["id"], json!(image.id()));
    }
    let other = Place::new();
    let error = other.refused(&[&format!("oci:{}", path.display()), "--platform", "linux/s390x"]);
    assert!(
        error.contains("not for linux/s390x but for linux/amd64, linux/arm64, unknown/unknown"),
        "{error}"
    );
}

/// One image in a layout, after `change`, and the error that it meets.
fn refused_after(change: impl FnOnce(&mut Image)) -> String {
    let place = Place::new();
    let mut image = Image::new("hello", 2);
    change(&mut image);
    layout(&place.path("images"), &[("latest", &image)]);
    place.refused(&["oci:images"])
}

/// I10: content that is not what its digest says is refused wherever it is.
#[test]
fn content_that_is_not_what_its_digest_says_is_refused() {
    for blob in 0..4 {
        for change in ["flip", "cut", "grow", "remove"] {
            let place = Place::new();
            let image = Image::new("hello", 2);
            layout(&place.path("images"), &[("latest", &image)]);
            let bytes = &image.blobs()[blob];
            let path = place.path("images/blobs/sha256").join(digest_of(bytes).hex());
            let mut changed = bytes.clone();
            match change {
                "flip" => *changed.last_mut().unwrap() ^= 1,
                "cut" => drop(changed.pop()),
                _ => changed.push(0),
            }
            std::fs::write(&path, &changed).unwrap();
            if change == "remove" {
                std::fs::remove_file(path).unwrap();
            }
            let error = place.refused(&["oci:images"]);
            let signs = ["digest says", "was damaged or exchanged", "announced", "lacks"];
            assert!(signs.iter().any(|sign| error.contains(sign)), "{blob} {change}: {error}");
            let kept = std::fs::read_dir(place.paths().blobs()).map_or(0, Iterator::count);
            assert!(kept <= 3, "{change}");
        }
    }
}

/// I10: layers that are not those of the configuration make no file system, not even under the name of
/// the one that they claim to be.
#[test]
fn layers_that_the_configuration_does_not_name_make_no_file_system() {
    let place = Place::new();
    let honest = Image::new("honest", 1);
    let mut liar = Image::new("evil", 1);
    liar.config["rootfs"] = honest.config["rootfs"].clone();
    layout(&place.path("images"), &[("liar", &liar), ("honest", &honest)]);
    let error = place.refused(&["oci:images:liar"]);
    assert!(
        error.contains("do not have the digest that the image's configuration names"),
        "{error}"
    );
    assert_eq!(std::fs::read_dir(place.paths().rootfs()).unwrap().count(), 0);
    assert_eq!(place.pull(&["oci:images:honest"])["new"], json!(true));
}

/// I10, I12, I15: counts that disagree, too many layers, none, and the wrong platform.
#[test]
fn images_that_contradict_themselves_are_refused() {
    let error = refused_after(|image| drop(image.layers.pop()));
    assert!(error.contains("lists 2 layers and its manifest 1"), "{error}");
    let error = refused_after(|image| *image = Image::new("", 0));
    assert!(error.contains("no layers"), "{error}");
    let error = refused_after(|image| *image = Image::of_tars(&[vec![0; 1024]]));
    assert!(error.contains("empty root file system"), "{error}");
    let error = refused_after(|image| {
        *image = Image::of_tars(&[tar(&[("a", b"")])]);
        image.layers = vec![image.layers[0].clone(); 200];
    });
    assert!(error.contains("200 layers"), "{error}");
    let error = refused_after(|image| image.config["architecture"] = json!("arm64"));
    assert!(error.contains("not for linux/amd64 but for linux/arm64"), "{error}");
    let error = refused_after(|image| image.config["os"] = json!("windows"));
    assert!(error.contains("windows/amd64"), "{error}");
}

/// I11: manifests that can be read in two ways, and media types that lie.
#[test]
fn ambiguous_manifests_and_false_media_types_are_refused() {
    let error = refused_after(|image| image.patch.push(("/mediaType", json!(INDEX))));
    assert!(error.contains("but is a manifest"), "{error}");
    let error =
        refused_after(|image| image.patch.push(("/layers/0/mediaType", json!("text/html"))));
    assert!(error.contains("no layer of a container's file system"), "{error}");
    let error = refused_after(|image| image.patch.push(("/config/mediaType", json!(LAYER))));
    assert!(error.contains("image's configuration"), "{error}");
    let place = Place::new();
    let image = Image::new("x", 1);
    let mut both: serde_json::Value = serde_json::from_slice(&image.manifest()).unwrap();
    both["manifests"] = json!([descriptor(MANIFEST, &image.manifest())]);
    let both = both.to_string();
    image.blobs().iter().for_each(|blob| write_blob(&place.path("images"), blob));
    write_blob(&place.path("images"), both.as_bytes());
    let entry = descriptor(MANIFEST, both.as_bytes());
    write_index(&place.path("images"), &json!({"schemaVersion": 2, "manifests": [entry]}));
    assert!(place.refused(&["oci:images"]).contains("ambiguous"));
}

/// I12: indexes that lead from one to the next end after a few, and an index of many entries costs
/// nothing.
#[test]
fn indexes_that_lead_on_and_on_are_refused() {
    let place = Place::new();
    let path = place.path("images");
    let mut inner = json!({"schemaVersion": 2, "manifests": []}).to_string();
    for _ in 0..100 {
        write_blob(&path, inner.as_bytes());
        let entry = descriptor(INDEX, inner.as_bytes());
        inner = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [entry]}).to_string();
    }
    std::fs::write(path.join("index.json"), &inner).unwrap();
    std::fs::write(path.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
    assert!(place.refused(&["oci:images"]).contains("more than 5 documents"));
    let mut entry = descriptor(MANIFEST, b"");
    entry["platform"] = json!({"os": "plan9", "architecture": "amd64"});
    write_index(&path, &json!({"schemaVersion": 2, "manifests": vec![entry; 10_000]}));
    let error = place.refused(&["oci:images:latest"]);
    assert!(error.contains("has no image `latest`"), "{error}");
}

/// I1, I17, A9: nothing that an image says is ever a path of this host.
#[test]
fn nothing_that_an_image_says_is_a_path() {
    let place = Place::new();
    let secret = place.path("secret");
    std::fs::write(&secret, "secret").unwrap();
    let mut image = Image::new("x", 1);
    image.config["config"]["Labels"] = json!({"../../x": "$(touch owned)", "\u{0}": "`reboot`"});
    image.config["config"]["WorkingDir"] = json!("../../../etc");
    layout(&place.path("images"), &[("../../x", &image)]);
    assert_eq!(place.pull(&["oci:images"])["id"], json!(image.id()));
    assert!(!place.path("owned").exists());
    // A blob that is a link to a file outside is not followed out.
    let other = Place::new();
    let image = Image::new("y", 1);
    layout(&other.path("images"), &[("latest", &image)]);
    let blob = other.path("images/blobs/sha256").join(image.id().hex());
    std::fs::write(other.path("outside"), image.config_bytes()).unwrap();
    std::fs::remove_file(&blob).unwrap();
    std::os::unix::fs::symlink(other.path("outside"), &blob).unwrap();
    let error = other.refused(&["oci:images"]);
    assert!(error.starts_with("open "), "{error}");
}

#[test]
fn archives_that_are_none_are_refused_in_one_sentence() {
    let place = Place::new();
    let write = |name: &str, bytes: &[u8]| std::fs::write(place.path(name), bytes).unwrap();
    let image = Image::new("x", 1);
    layout(&place.path("images"), &[("a", &image), ("b", &image)]);
    archive(&place.path("images"), &place.path("good.tar"));
    let good = std::fs::read(place.path("good.tar")).unwrap();
    write("short.tar", &tar(&[("oci-layout", &[0; 4096])])[..2048]);
    write("zipped.tar", &gzip(&good));
    write("text.tar", &[b'x'; 2048]);
    write("empty.tar", b"");
    write("loop.tar", &links());
    std::fs::create_dir(place.path("empty")).unwrap();
    let fifo = rustix::fs::Mode::RUSR;
    rustix::fs::mkfifoat(rustix::fs::CWD, place.path("fifo"), fifo).unwrap();
    for (source, sign) in [
        ("oci:missing", "No such file"),
        ("oci:empty", "no file oci-layout"),
        ("oci:good.tar", "Not a directory"),
        ("oci:images", "several images: a, b"),
        ("oci:images:c", "no image `c`; it has: a, b"),
        ("oci-archive:images", "not a file"),
        ("oci-archive:fifo", "not a file"),
        ("oci-archive:short.tar", "beyond its end"),
        ("oci-archive:zipped.tar", "compressed as a whole"),
        ("oci-archive:text.tar", "it is no tar archive, or a damaged one"),
        ("oci-archive:empty.tar", "no files"),
        ("docker-archive:good.tar", "no file manifest.json"),
        ("docker-archive:loop.tar", "no file manifest.json"),
        ("oci:../x:y:z/", "is no tag"),
    ] {
        let error = place.refused(&[source]);
        assert!(error.contains(sign), "{source}: {error}");
    }
}

/// An archive of links that lead to each other.
fn links() -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, target) in [("manifest.json", "b"), ("b", "manifest.json")] {
        let mut header = tar::Header::new_ustar();
        header.set_size(0);
        header.set_entry_type(tar::EntryType::Symlink);
        builder.append_link(&mut header, name, target).unwrap();
    }
    builder.into_inner().unwrap()
}
