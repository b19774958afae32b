//! An image of many layers with everything a layer can do to those below it.
//!
//! What must become of it stands in the tests below, as `umoci unpack` has it.

use std::io::{self, Write};
use std::path::Path;

use anyhow::Result;

use super::layout::Layout;
use super::tar::{Node, Tar};

/// Changes whenever the layers do.
pub(crate) const RECIPE: &str = "2";

/// Layers that each add a file, remove another and rewrite a third.
const STEPS: u32 = 24;

/// CAP_NET_RAW, permitted and effective: `struct vfs_cap_data` of linux/capability.h, revision 2.
const NET_RAW: &[u8] = &[1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

/// Size of the sparse file.
const SPARSE: u64 = 64 << 20;

type Fill<W> = fn(&mut Tar<W>) -> io::Result<()>;

/// Makes the image at `layout`, on top of the layout `busybox`.
///
/// # Errors
/// umoci fails.
pub(crate) fn build(busybox: &Path, layout: &Path) -> Result<()> {
    let image = Layout::from_base(busybox, layout)?;
    let fills: [Fill<_>; 5] = [below, removals, second_thoughts, attributes, odd_nodes];
    for fill in fills {
        image.layer(fill)?;
    }
    for number in 0..STEPS {
        image.layer(|tar| step(tar, number))?;
    }
    image.configure(&[("label", "layers=many"), ("stopsignal", "SIGINT")])?;
    image.finish()
}

/// What the layers above change.
fn below<W: Write>(tar: &mut Tar<W>) -> io::Result<()> {
    for directory in ["t", "t/gone", "t/opaque", "t/opaque/sub", "t/links", "t/was-directory"] {
        tar.add(&Node::directory(directory))?;
    }
    let files = ["t/deleted", "t/gone/a", "t/gone/.b", "t/opaque/old", "t/opaque/sub/old"];
    for file in files.into_iter().chain(["t/was-file", "t/was-directory/inside", "t/reborn"]) {
        tar.add(&Node::file(file, b"below\n"))?;
    }
    tar.add(&Node::link("t/was-link", "was-file"))?;
    tar.add(&Node::file("t/links/one", b"linked\n").owner(1000, 1000).mode(0o640))?;
    tar.add(&Node::hard_link("t/links/two", "t/links/one"))?;
    tar.add(&Node::hard_link("t/links/apart", "t/links/one"))?;
    tar.add(&Node::link("t/links/symbolic", "one"))?;
    // A second name of a symbolic link.
    tar.add(&Node::hard_link("t/links/symbolic-too", "t/links/symbolic"))
}

/// Whiteouts, an opaque directory, other kinds in the place of names, a link to a lower layer.
fn removals<W: Write>(tar: &mut Tar<W>) -> io::Result<()> {
    for whiteout in ["t/.wh.deleted", "t/.wh.gone", "t/.wh.reborn", "t/links/.wh.two"] {
        tar.add(&Node::file(whiteout, b""))?;
    }
    tar.add(&Node::directory("t/opaque").mode(0o750))?;
    // After its sibling: it hides what lower layers have, not what this one has.
    tar.add(&Node::file("t/opaque/new", b"above\n"))?;
    tar.add(&Node::file("t/opaque/.wh..wh..opq", b""))?;
    tar.add(&Node::hard_link("t/links/three", "t/links/one"))?;
    tar.add(&Node::directory("t/was-file"))?;
    tar.add(&Node::file("t/was-file/inside", b"above\n"))?;
    tar.add(&Node::file("t/was-directory", b"above\n"))?;
    tar.add(&Node::file("t/was-link", b"above\n"))
}

/// Names that come back, and a change to one name of a linked file.
fn second_thoughts<W: Write>(tar: &mut Tar<W>) -> io::Result<()> {
    tar.add(&Node::directory("t/reborn"))?;
    tar.add(&Node::file("t/reborn/inside", b"again\n"))?;
    tar.add(&Node::file("t/opaque/old", b"again\n"))?;
    tar.add(&Node::file("t/links/apart", b"apart\n"))?;
    tar.add(&Node::directory("t/links").mode(0o711).owner(7, 8))
}

fn attributes<W: Write>(tar: &mut Tar<W>) -> io::Result<()> {
    let directory = Node::directory("x").attribute("user.on.directory", b"yes");
    tar.add(&directory)?;
    let binary: &[u8] = b"a\0b\nc=d\xff";
    let many = Node::file("x/many", b"").attribute("user.empty", b"").attribute("user.bin", binary);
    tar.add(&many.attribute("user.text", b"some text"))?;
    let capable = Node::file("x/capable", b"#!/bin/sh\n").mode(0o755);
    tar.add(&capable.attribute("security.capability", NET_RAW))
}

/// Devices, permissions, owners, times, sizes and names of the less usual sorts.
fn odd_nodes<W: Write>(tar: &mut Tar<W>) -> io::Result<()> {
    tar.add(&Node::directory("o"))?;
    tar.add(&Node::character_device("o/null", 1, 3).mode(0o666))?;
    tar.add(&Node::block_device("o/loop", 7, 0).owner(0, 6).mode(0o660))?;
    tar.add(&Node::fifo("o/fifo").mode(0o622))?;
    tar.add(&Node::file("o/setuid", b"#!/bin/sh\n").mode(0o4755))?;
    tar.add(&Node::file("o/setgid", b"#!/bin/sh\n").mode(0o2755).owner(0, 42))?;
    tar.add(&Node::directory("o/sticky").mode(0o1777))?;
    tar.add(&Node::directory("o/shared").mode(0o2775).owner(0, 50))?;
    tar.add(&Node::file("o/locked", b"").mode(0))?;
    tar.add(&Node::file("o/nobody", b"").owner(65_534, 65_534))?;
    tar.add(&Node::file("o/beyond", b"").owner(3_000_000, 3_000_001))?;
    tar.add(&Node::file("o/old", b""))?;
    tar.add(&Node::file("o/fine", b"").time(1_700_000_000, 123_456_789))?;
    tar.add(&Node::file("o/future", b"").time(4_102_444_800, 0))?;
    let pieces: &[(u64, &[u8])] = &[(0, b"start"), (1 << 20, b"middle"), (SPARSE - 3, b"end")];
    tar.add(&Node::sparse("o/sparse", SPARSE, pieces))?;
    tar.add(&Node::link("o/dangling", "no/such/file"))?;
    tar.add(&Node::link("o/absolute", "/etc/passwd"))?;
    tar.add(&Node::link("o/loop-a", "loop-b"))?;
    tar.add(&Node::link("o/loop-b", "loop-a"))?;
    tar.add(&Node::file("o/a name\nof two lines, gr\u{fc}n", b""))?;
    tar.add(&Node::file(&format!("o/{}", "n".repeat(255)), b""))?;
    let deep = (0..40).map(|depth| format!("deep-{depth}")).collect::<Vec<_>>().join("/");
    tar.add(&Node::file(&format!("o/{deep}/file"), b"deep\n"))
}

fn step<W: Write>(tar: &mut Tar<W>, number: u32) -> io::Result<()> {
    tar.add(&Node::directory("steps"))?;
    tar.add(&Node::file(&format!("steps/{number}"), b""))?;
    // Every second one stays.
    if number % 2 == 1 {
        tar.add(&Node::file(&format!("steps/.wh.{}", number - 1), b""))?;
    }
    tar.add(&Node::file("steps/last", format!("{number}\n").as_bytes()))
}
