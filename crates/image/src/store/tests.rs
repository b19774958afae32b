use std::os::unix::fs::PermissionsExt;

use super::*;

fn digest(byte: u8) -> Digest {
    Digest::from_bytes([byte; 32])
}

fn record(id: u8) -> Record {
    Record {
        version: Record::VERSION,
        id: digest(id),
        config: crate::config::ImageConfig { user: "nobody".into(), ..Default::default() },
        rootfs: RootfsName::new(digest(id)),
        size: 3,
        created: Some(7),
        blobs: vec![Blob { digest: digest(id), size: 1 }],
    }
}

struct Fixture {
    store: Store,
    directory: tempfile::TempDir,
}

fn fixture() -> Fixture {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(StorePaths::new(directory.path())).unwrap();
    Fixture { store, directory }
}

fn add(store: &Store, id: u8, references: &[&str]) -> ImageRecord {
    let mut names = NewNames::default();
    references.iter().for_each(|text| names.add(&text.parse().unwrap()));
    std::fs::create_dir_all(store.paths().rootfs()).unwrap();
    let record = record(id);
    std::fs::write(store.paths().rootfs().join(record.rootfs.as_str()), "abc").unwrap();
    store.add(&record, &names).unwrap()
}

/// No container uses anything.
fn none() -> Result<Roots, StoreError> {
    Ok(Roots::new())
}

fn find(store: &Store, text: &str) -> Option<Digest> {
    store.find_by_text(text).unwrap().map(|image| image.id)
}

#[test]
fn store_that_is_not_there_yet_is_empty_and_stays_so() {
    let Fixture { store, directory } = fixture();
    assert!(store.list().unwrap().is_empty());
    assert_eq!(find(&store, "alpine"), None);
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
}

#[test]
fn images_are_found_by_name_digest_and_beginning_of_the_id() {
    let Fixture { store, directory: _directory } = fixture();
    let pinned = format!("alpine@{}", digest(9));
    add(&store, 0xab, &["alpine", &pinned, "oci:/srv/dir:x"]);
    let image = add(&store, 0xac, &["host:5000/app:1"]);
    assert_eq!(image.names, ["host:5000/app:1"]);
    check_rootfs(&image).unwrap();
    for text in ["alpine", "docker.io/library/alpine:latest", &pinned, "oci:/srv/dir:x", "abab"] {
        assert_eq!(find(&store, text), Some(digest(0xab)), "{text}");
    }
    assert_eq!(find(&store, &format!("alpine:3@{}", digest(9))), Some(digest(0xab)));
    assert_eq!(find(&store, &digest(0xac).to_string()), Some(digest(0xac)));
    assert_eq!(find(&store, &digest(0xac).hex()), Some(digest(0xac)));
    for text in ["alpine:3", "app:1", "oci:/srv/dir", "ad", "library", &pinned.replace('9', "8")] {
        assert_eq!(find(&store, text), None, "{text}");
    }
    assert!(matches!(store.find_by_text("a"), Err(StoreError::Ambiguous(_))));
    assert!(matches!(store.find_by_text("../x"), Err(StoreError::Reference(_))));
}

#[test]
fn name_that_moves_leaves_the_other_image_without_one() {
    let Fixture { store, directory: _directory } = fixture();
    add(&store, 1, &["app"]);
    add(&store, 2, &["app"]);
    assert_eq!(find(&store, "app"), Some(digest(2)));
    let names: Vec<_> = store.list().unwrap().into_iter().map(|image| image.names.len()).collect();
    assert_eq!(names, [0, 1]);
}

#[test]
fn image_for_another_machine_is_told_with_both_platforms() {
    let Fixture { store, directory: _directory } = fixture();
    let mut image = add(&store, 1, &["app"]);
    let host = Platform::host();
    let other = if host.architecture == "arm64" { "amd64" } else { "arm64" };
    image.config.os = "linux".into();
    image.config.architecture = host.architecture.clone();
    image.config.variant = Some("v8".into());
    check_platform(&image, "app").unwrap();
    image.config.architecture = other.into();
    let error = check_platform(&image, "app").expect_err("of another processor");
    let expected = format!("app is for linux/{other}/v8, this machine runs images for {host}");
    assert!(error.to_string().contains(&expected), "{error}");
    assert!(error.hint().is_some());
    image.config = crate::config::ImageConfig::default();
    check_platform(&image, "app").expect_err("it does not say");
}

/// P2: files that a crash or a hand has torn are an error that names them, never another image.
#[test]
fn torn_files_are_named_and_never_believed() {
    let Fixture { store, directory: _directory } = fixture();
    let image = add(&store, 1, &["app"]);
    let names = store.paths().images().join("names.json");
    let record = store.paths().records().join(format!("{}.json", digest(1).hex()));
    for path in [&names, &record] {
        let whole = std::fs::read(path).unwrap();
        for length in 0..whole.len() {
            std::fs::write(path, &whole[..length]).unwrap();
            let error = store.find(&"app".parse().unwrap()).expect_err("torn");
            assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
            assert!(error.hint().is_some());
        }
        std::fs::write(path, &whole).unwrap();
    }
    std::fs::copy(&record, record.with_file_name(format!("{}.json", digest(2).hex()))).unwrap();
    assert!(matches!(store.list(), Err(StoreError::Damaged { .. })), "a record of another image");
    std::fs::write(&image.rootfs, "ab").unwrap();
    assert!(matches!(check_rootfs(&image), Err(StoreError::Damaged { .. })));
}

#[test]
fn directory_that_others_can_write_is_refused() {
    let Fixture { store, directory: _directory } = fixture();
    add(&store, 1, &["app"]);
    let images = store.paths().images();
    std::fs::set_permissions(&images, PermissionsExt::from_mode(0o777)).unwrap();
    let error = Store::open(store.paths().clone()).expect_err("foreign");
    assert!(error.to_string().ends_with("others can write to it"), "{error}");
}

#[test]
fn file_names_of_records_are_checked_when_they_are_read() {
    for name in ["../x", "v1-../x.erofs", "x", ".erofs", "v1-.erofs", "/v1-00.erofs"] {
        assert!(RootfsName::try_from(name.to_owned()).is_err(), "{name}");
    }
    assert!(RootfsName::try_from(String::from(RootfsName::new(digest(1)))).is_ok());
}

fn blob_files(store: &Store) -> usize {
    std::fs::read_dir(store.paths().blobs()).unwrap().count()
}

fn write_blob(store: &Store, id: u8) {
    std::fs::write(store.paths().blobs().join(digest(id).hex()), "x").unwrap();
}

#[test]
fn last_name_takes_the_image_and_its_files_with_it() {
    let Fixture { store, directory: _directory } = fixture();
    let image = add(&store, 1, &["app", "app:2"]);
    add(&store, 2, &["other"]);
    (1..=2).for_each(|id| write_blob(&store, id));
    let first = store.remove("app:2", false, none).unwrap();
    assert_eq!((first.untagged.len(), first.deleted.len()), (1, 0));
    assert!(find(&store, "app").is_some() && image.rootfs.exists());
    let last = store.remove("app", false, none).unwrap();
    assert_eq!(
        (last.untagged, last.deleted),
        (vec!["docker.io/library/app:latest".into()], vec![digest(1)])
    );
    assert!(last.bytes > 0 && !image.rootfs.exists());
    assert_eq!((blob_files(&store), find(&store, "other")), (1, Some(digest(2))));
    assert!(matches!(store.remove("app", false, none), Err(StoreError::NotFound(_))));
}

#[test]
fn image_with_several_names_is_removed_by_its_id_with_force_alone() {
    let Fixture { store, directory: _directory } = fixture();
    add(&store, 1, &["app", "app:2"]);
    let id = digest(1).short();
    assert!(matches!(store.remove(&id, false, none), Err(StoreError::ManyNames(_))));
    assert_eq!(store.remove(&id, true, none).unwrap().untagged.len(), 2);
    assert!(store.list().unwrap().is_empty());
}

#[test]
fn image_of_a_container_stays_until_the_container_is_gone() {
    let Fixture { store, directory: _directory } = fixture();
    let image = add(&store, 1, &["app"]);
    let used = || Ok(Roots::from([(digest(1), "c1".to_owned())]));
    assert!(
        matches!(store.remove("app", false, used), Err(StoreError::InUse { user, .. }) if user.contains("c1"))
    );
    assert_eq!(store.remove("app", true, used).unwrap().deleted, []);
    let all = Prune { all: true, layers: true };
    assert_eq!(store.prune(all, used).unwrap().deleted, []);
    assert!(image.rootfs.exists() && find(&store, &digest(1).hex()).is_some());
    assert_eq!(store.usage(used).unwrap().images.active, 1);
    assert_eq!(store.prune(Prune::default(), none).unwrap().deleted, [digest(1)]);
    assert!(!image.rootfs.exists());
}

#[test]
fn prune_takes_what_nothing_refers_to_and_leaves_the_rest() {
    let Fixture { store, directory: _directory } = fixture();
    add(&store, 1, &["app"]);
    add(&store, 2, &["app"]);
    (1..=3).for_each(|id| write_blob(&store, id));
    std::fs::write(store.paths().temporary().join("half"), "x").unwrap();
    let mut held = Unfinished::create(store.paths(), store.paths().rootfs().join("busy"), || ())
        .unwrap()
        .unwrap();
    std::io::Write::write_all(held.file(), b"x").unwrap();
    let removed = store.prune(Prune::default(), none).unwrap();
    assert_eq!(removed.deleted, [digest(1)]);
    assert_eq!((blob_files(&store), find(&store, "app")), (1, Some(digest(2))));
    let left: Vec<_> = index::file_names(&store.paths().temporary()).unwrap();
    assert_eq!(left, ["busy"], "what is being written stays");
    held.publish().unwrap();
    assert_eq!(store.prune(Prune { all: true, layers: false }, none).unwrap().deleted, [digest(2)]);
    let usage = store.usage(none).unwrap();
    assert_eq!((usage.images.bytes, usage.layers.count, usage.unfinished.count), (0, 0, 0));
}

/// I18: what a pull has got, and no image refers to yet, is not swept away under it.
#[test]
fn layers_stay_while_a_pull_is_running() {
    let Fixture { store, directory: _directory } = fixture();
    add(&store, 1, &["app"]);
    write_blob(&store, 1);
    write_blob(&store, 9);
    let pulling = store.pulling().unwrap();
    store.remove("app", false, none).unwrap();
    store.prune(Prune::default(), none).unwrap();
    assert_eq!(blob_files(&store), 2);
    drop(pulling);
    store.prune(Prune::default(), none).unwrap();
    assert_eq!(blob_files(&store), 0);
}
