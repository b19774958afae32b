//! What layers do to each other.

use std::collections::BTreeMap;

use proptest::prelude::*;

use crate::rootfs::{Limits, RootfsError};
use crate::testing::{Tar, flatten, flatten_within};

fn paths(layers: &[Tar]) -> String {
    let layers: Vec<Vec<u8>> = layers.iter().cloned().map(Tar::end).collect();
    flatten(&layers).unwrap().paths()
}

fn tar() -> Tar {
    Tar::default()
}

fn refused(tar: Tar) -> String {
    flatten(&[tar.end()]).err().unwrap().to_string()
}

#[test]
fn later_layers_replace_files_and_merge_directories() {
    let one = tar().dir_mode("d", 0o700).file("d/old", b"1").file("f", b"one").end();
    let two = tar().dir_mode("d", 0o750).file("d/new", b"2").file("f", b"two!").end();
    let image = flatten(&[one, two]).unwrap();
    assert_eq!(image.paths(), "d d/new d/old f");
    assert_eq!(image.contents()["f"], "two!");
    assert_eq!(image.find("d").mode, 0o4_0750);
}

#[test]
fn missing_parents_belong_to_root() {
    let image = flatten(&[tar().file("a/b/c", b"x").end()]).unwrap();
    let found = image.find("a/b");
    assert_eq!((found.mode, found.uid, found.gid, found.mtime), (0o4_0755, 0, 0, (0, 0)));
}

#[test]
fn parents_of_an_older_layer_keep_what_it_said_of_them() {
    let layers = [tar().dir_mode("d", 0o711).end(), tar().file("d/f", b"").end()];
    assert_eq!(flatten(&layers).unwrap().find("d").mode, 0o4_0711);
}

#[test]
fn whiteouts_hide_what_older_layers_have_and_nothing_else() {
    let one = tar().dir("d").file("d/a", b"").file("d/b", b"").file("f", b"");
    let gone = |tar: Tar| paths(&[one.clone(), tar]);
    assert_eq!(gone(tar().file("d/.wh.a", b"")), "d d/b f");
    assert_eq!(gone(tar().file(".wh.d", b"")), "f");
    assert_eq!(gone(tar().file("d/.wh..wh.opq", b"")), "d f");
    assert_eq!(gone(tar().file(".wh..wh.opq", b"").file("x", b"")), "x");
    assert_eq!(gone(tar().file(".wh.absent", b"").file("no/.wh.x", b"")), "d d/a d/b f");
}

#[test]
fn whiteouts_spare_their_own_layer_in_either_order() {
    let one = tar().dir("d").file("d/a", b"").file("d/b", b"").file("f", b"old");
    let parts = [tar().file("d/new", b""), tar().dir("d"), tar().file("d/a", b"mine"), tar()];
    for part in parts {
        for mark in ["d/.wh..wh.opq", ".wh.d"] {
            let before = Tar([tar().file(mark, b"").0, part.0.clone()].concat()).file("x", b"");
            let after = Tar([part.0.clone(), tar().file(mark, b"").0].concat()).file("x", b"");
            let (before, after) = ([one.clone(), before], [one.clone(), after]);
            assert_eq!(paths(&before), paths(&after), "{mark}");
            assert!(!paths(&after).contains("d/b"), "{mark}");
        }
    }
    let both = |tar: Tar| flatten(&[one.clone().end(), tar.end()]).unwrap().contents()["f"].clone();
    assert_eq!(both(tar().file("f", b"new").file(".wh.f", b"")), "new");
    assert_eq!(both(tar().file(".wh.f", b"").file("f", b"new")), "new");
}

#[test]
fn directory_that_is_hidden_and_made_again_forgets_its_owner() {
    let one = tar().header(b"d", b'5', |header| header.set_uid(7)).file("d/a", b"").end();
    let two = tar().file("d/b", b"").file(".wh.d", b"").end();
    let image = flatten(&[one, two]).unwrap();
    assert_eq!((image.paths().as_str(), image.find("d").uid), ("d d/b", 0));
}

/// I6
#[test]
fn whiteouts_of_impossible_names_are_refused() {
    for name in [".wh.", ".wh..", ".wh...", "d/.wh..", "d/.wh...", ".wh.d/x"] {
        let reason = refused(tar().dir("d").file(name, b""));
        assert!(reason.contains("the whiteout names nothing"), "{name}: {reason}");
    }
    assert!(refused(tar().file("d/.wh.a/../b", b"")).contains("`..`"));
}

/// I6
#[test]
fn whiteouts_through_symbolic_links_stay_inside() {
    let one = tar().dir("d").file("d/a", b"").symlink("l", "../../../d").symlink("out", "/etc");
    let two = tar().file("l/.wh.a", b"").file("out/.wh.passwd", b"").file("out/.wh..wh.opq", b"");
    assert_eq!(paths(&[one, two]), "d l out");
}

#[test]
fn files_of_aufs_are_no_part_of_the_image() {
    let layer = tar()
        .file(".wh..wh.aufs", b"")
        .dir(".wh..wh.plnk")
        .file(".wh..wh.plnk/7.8", b"data")
        .dir(".wh..wh.orph")
        .file("f", b"x");
    assert_eq!(paths(&[layer]), "f");
}

/// I2
#[test]
fn writes_through_symbolic_links_land_inside() {
    for target in ["/real", "../real", "real", "/../../real", "./x/../real"] {
        let layer = tar().dir("real").dir("x").symlink("link", target).file("link/f", b"x");
        assert_eq!(paths(&[layer]), "link real real/f x", "{target}");
    }
    let one = tar().dir("real").symlink("link", "/real");
    assert_eq!(paths(&[one, tar().file("link/f", b"x")]), "link real real/f");
}

/// I2
#[test]
fn symbolic_links_to_nothing_make_directories_inside() {
    let layer = tar().symlink("link", "/new/deep").file("link/f", b"x");
    assert_eq!(paths(&[layer]), "link new new/deep new/deep/f");
}

/// I2
#[test]
fn last_name_is_never_followed() {
    let layer = tar().file("victim", b"safe").symlink("link", "victim").file("link", b"new").end();
    let contents = flatten(&[layer]).unwrap().contents();
    assert_eq!((&*contents["victim"], &*contents["link"]), ("safe", "new"));
    assert_eq!(paths(&[tar().dir("d").symlink("l", "d").dir("l").file("l/x", b"")]), "d l l/x");
}

/// I2
#[test]
fn loops_of_symbolic_links_are_refused() {
    let reason = refused(tar().symlink("a", "b").symlink("b", "a").file("a/f", b""));
    assert_eq!(reason, "layer 1: `a/f`: the path leads through more than 40 symbolic links");
    let doubling = (1..30).fold(tar().symlink("l0", "."), |tar, index| {
        let last = format!("l{}", index - 1);
        tar.symlink(&format!("l{index}"), &format!("{last}/{last}"))
    });
    assert!(refused(doubling.file("l29/f", b"")).contains("40 symbolic links"));
}

#[test]
fn file_above_a_file_is_refused() {
    let reason = refused(tar().file("f", b"").file("f/x", b""));
    assert!(reason.ends_with("what should be a directory above it is something else"), "{reason}");
}

/// I13
#[test]
fn kinds_of_one_name_may_change_and_the_last_counts() {
    let one = tar().file("x", b"file").file("y", b"1").file("y", b"2");
    let two = tar().dir("x").file("x/in", b"").symlink("y", "x");
    let three = tar().symlink("x", "y").dir("y").file("Y", b"");
    assert_eq!(paths(std::slice::from_ref(&one)), "x y");
    assert_eq!(flatten(&[one.clone().end()]).unwrap().contents()["y"], "2");
    assert_eq!(paths(&[one.clone(), two.clone()]), "x x/in y");
    assert_eq!(paths(&[one, two, three]), "Y x y");
}

#[test]
fn hard_links_share_an_inode_until_one_name_is_replaced() {
    let one = tar().file("a", b"data").link("b", "a").link("d/c", "./a").end();
    let image = flatten(std::slice::from_ref(&one)).unwrap();
    let [a, b, c] = ["a", "b", "d/c"].map(|name| image.find(name));
    assert_eq!((a.nid, a.links), (b.nid, 3));
    assert_eq!(a.nid, c.nid);
    let two = tar().file("a", b"else").link("e", "b").file("d/.wh.c", b"").end();
    let image = flatten(&[one, two]).unwrap();
    assert_eq!(image.contents()["b"], "data");
    assert_eq!((image.find("b").links, image.find("a").links), (2, 1));
}

#[test]
fn hard_link_to_a_symbolic_link_is_the_link_itself() {
    let image = flatten(&[tar().file("f", b"").symlink("l", "f").link("m", "l").end()]).unwrap();
    assert_eq!((&*image.contents()["m"], image.find("l").links), ("-> f", 2));
}

/// I3
#[test]
fn hard_links_to_nothing_outside_or_themselves_are_refused() {
    let none = |tar: Tar| refused(tar);
    assert!(none(tar().link("l", "/etc/passwd")).contains("does not exist"));
    assert!(none(tar().link("l", "../../etc/passwd")).contains("`..`"));
    assert!(none(tar().symlink("s", "/etc").link("l", "s/passwd")).contains("does not exist"));
    assert!(none(tar().link("l", "later").file("later", b"")).contains("does not exist"));
    assert!(none(tar().file(".wh.f", b"").link("l", ".wh.f")).contains("does not exist"));
    assert!(none(tar().dir("d").link("l", "d")).contains("is a directory"));
    assert!(none(tar().link("l", "/")).contains("is a directory"));
    assert!(none(tar().file("f", b"").link("f", "f")).contains("leads to itself"));
    assert!(none(tar().file("f", b"").symlink("s", ".").link("s/f", "f")).contains("to itself"));
    assert!(none(tar().file("f", b"").link("/", "f")).contains("only be a directory"));
}

/// I3
#[test]
fn hard_link_in_the_place_of_what_holds_its_target_keeps_the_target() {
    let layer = tar().dir("d").file("d/f", b"kept").link("d", "d/f").end();
    assert_eq!(flatten(&[layer]).unwrap().contents()["d"], "kept");
}

#[test]
fn root_can_be_described_but_not_replaced() {
    let layer = tar().header(b"./", b'5', |header| header.set_mode(0o1777)).file("f", b"").end();
    assert_eq!(flatten(&[layer]).unwrap().find_root().mode, 0o4_1777);
    assert!(refused(tar().file("/", b"")).contains("the root can only be a directory"));
    assert!(refused(tar().symlink(".", "x")).contains("the root can only be a directory"));
}

/// I15
#[test]
fn nothing_at_all_is_an_error() {
    assert!(matches!(flatten(&[]), Err(RootfsError::NoLayers)));
    assert!(matches!(flatten(&[tar().end()]), Err(RootfsError::Empty)));
    assert!(matches!(flatten(&[tar().dir("./").end()]), Err(RootfsError::Empty)));
    let layers = [tar().file("f", b"").end(), tar().file(".wh.f", b"").end()];
    assert!(matches!(flatten(&layers), Err(RootfsError::Empty)));
}

/// I9
#[test]
fn depth_and_numbers_are_bounded() {
    let limits = Limits { depth: 20, inodes: 50, members: 60, layers: 2, ..Limits::default() };
    let refused = |tar: Tar| {
        let error = flatten_within(&[tar.end()], &limits).err().unwrap();
        assert!(matches!(error, RootfsError::Limit { .. }), "{error:?}");
    };
    refused(tar().dir(&"d/".repeat(21)));
    refused(tar().symlink("l", &"d/".repeat(12)).dir(&format!("l/{}", "d/".repeat(12))));
    refused((0..60).fold(tar(), |tar, index| tar.file(&index.to_string(), b"")));
    refused((0..61).fold(tar(), |tar, _| tar.file("same", b"")));
    let many = [0, 1, 2].map(|_| tar().file("f", b"").end());
    let error = flatten_within(&many, &limits).err().unwrap();
    assert!(matches!(error, RootfsError::TooManyLayers(2)), "{error:?}");
    let tar = tar().dir(&"d/".repeat(2000));
    assert!(matches!(flatten(&[tar.end()]), Err(RootfsError::Limit { .. })));
}

/// I9
#[test]
fn paths_that_take_long_to_follow_are_refused() {
    let limits = Limits { lookups: 2000, ..Limits::default() };
    let links = |target: &str| {
        (0..20).fold(tar().dir("a").symlink("l", target), |tar, _| tar.file("l/l/l/l/l/f", b""))
    };
    assert!(flatten_within(&[links("a/..").end()], &limits).is_ok());
    let error = flatten_within(&[links(&"a/../".repeat(19)).end()], &limits).err().unwrap();
    assert!(error.to_string().contains("take too long to follow"), "{error}");
}

/// One deed of a layer.
#[derive(Debug, Clone)]
enum Deed {
    File(String),
    Dir(String),
    Whiteout(String),
    Opaque(String),
}

fn name() -> impl Strategy<Value = String> {
    prop::collection::vec(prop::sample::select(&["a", "b", "c"][..]), 1..4)
        .prop_map(|names| names.join("/"))
}

fn deed() -> impl Strategy<Value = Deed> {
    prop_oneof![
        4 => name().prop_map(Deed::File),
        3 => name().prop_map(Deed::Dir),
        2 => name().prop_map(Deed::Whiteout),
        1 => name().prop_map(Deed::Opaque),
    ]
}

/// Paths and whether they are directories: the same semantics without any cleverness.
type Model = BTreeMap<String, bool>;

fn is_below(path: &str, parent: &str) -> bool {
    path.strip_prefix(parent).is_some_and(|rest| rest.starts_with('/'))
}

/// `None` for a layer with a file where a directory should be.
fn model(layers: &[Vec<Deed>]) -> Option<Model> {
    let mut below = Model::new();
    for layer in layers {
        let mut own = Model::new();
        let mut seen = below.clone();
        // Hidden first: what a layer hides is of the layers below it.
        for deed in layer {
            match deed {
                Deed::Whiteout(path) => {
                    seen.retain(|other, _| other != path && !is_below(other, path));
                }
                Deed::Opaque(path) => seen.retain(|other, _| !is_below(other, path)),
                _ => {}
            }
        }
        for deed in layer {
            let (path, is_dir) = match deed {
                Deed::File(path) => (path, false),
                Deed::Dir(path) => (path, true),
                _ => continue,
            };
            for (end, _) in path.match_indices('/') {
                if seen.insert(path[..end].to_owned(), true) == Some(false) {
                    return None;
                }
            }
            if !is_dir {
                seen.retain(|other, _| !is_below(other, path));
            }
            seen.insert(path.clone(), is_dir);
        }
        own.append(&mut seen);
        below = own;
    }
    Some(below)
}

fn archive(layer: &[Deed]) -> Tar {
    layer.iter().fold(tar(), |tar, deed| match deed {
        Deed::File(path) => tar.file(path, b"x"),
        Deed::Dir(path) => tar.dir(path),
        Deed::Opaque(path) => tar.file(&format!("{path}/.wh..wh.opq"), b""),
        Deed::Whiteout(path) => {
            let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
            tar.file(&format!("{parent}/.wh.{name}"), b"")
        }
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn layers_leave_what_a_simple_model_says(
        layers in prop::collection::vec(prop::collection::vec(deed(), 0..8), 1..4)
    ) {
        let archives: Vec<Vec<u8>> = layers.iter().map(|layer| archive(layer).end()).collect();
        match (model(&layers), flatten(&archives)) {
            (Some(model), Ok(image)) => {
                let found: Model = image
                    .contents()
                    .into_iter()
                    .map(|(path, text)| (path, text == "/"))
                    .collect();
                prop_assert_eq!(found, model);
            }
            (Some(model), Err(RootfsError::Empty)) => prop_assert!(model.is_empty()),
            // A whiteout may remove the file that is in the way; the archive has it too late.
            (_, Err(RootfsError::Layer { reason, .. })) => {
                prop_assert!(reason.contains("something else"), "{}", reason);
            }
            (model, result) => prop_assert!(false, "{:?} {:?}", model, result.err()),
        }
    }
}
