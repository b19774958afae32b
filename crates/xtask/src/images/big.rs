//! An image of 500 MB, for measurements: always the same content, compressible as programs are.

use std::io::{self, Write};
use std::path::Path;

use anyhow::Result;

use super::layout::Layout;
use super::tar::{Node, Tar};
use crate::arch::Arch;

/// Changes whenever the content does.
pub(crate) const RECIPE: &str = "1";

const LAYERS: u64 = 5;

/// Files of a layer; with the sizes below they make 100 MB.
const FILES: u64 = 980;

/// Files of a directory.
const DIRECTORY: u64 = 50;

/// The largest file has this much, the smallest a 512th of it; a layer has as many of each size.
const LARGEST: u64 = 512 << 10;

/// Of so many blocks of a file one is noise, the others are text.
const NOISE: u64 = 4;

const BLOCK: usize = 512;

const WORDS: [&str; 16] = [
    "address",
    "between",
    "counter",
    "descriptor",
    "event",
    "file",
    "guest",
    "handle",
    "interrupt",
    "kernel",
    "length",
    "memory",
    "notify",
    "offset",
    "page",
    "queue",
];

/// Makes the image at `layout`.
///
/// # Errors
/// umoci fails.
pub(crate) fn build(layout: &Path) -> Result<()> {
    let image = Layout::create(layout, Arch::X86_64)?;
    for number in 0..LAYERS {
        image.layer(|tar| write(tar, number))?;
    }
    image.finish()
}

fn write<W: Write>(tar: &mut Tar<W>, layer: u64) -> io::Result<()> {
    let mut random = Random(layer + 1);
    let top = format!("layer-{layer}");
    tar.add(&Node::directory(&top))?;
    let mut directory = top.clone();
    for number in 0..FILES {
        if number % DIRECTORY == 0 {
            directory = format!("{top}/{:02}", number / DIRECTORY);
            tar.add(&Node::directory(&directory))?;
        }
        let size = LARGEST >> (number % 10);
        // Not all end with a block.
        let content = content(&mut random, size - number % 7);
        tar.add(&Node::file(&format!("{directory}/{number:04}"), &content).mode(0o755))?;
    }
    // Upper layers take something away from those below.
    if layer > 0 {
        tar.add(&Node::file(&format!("layer-{}/.wh.19", layer - 1), b""))?;
    }
    Ok(())
}

fn content(random: &mut Random, size: u64) -> Vec<u8> {
    let size = usize::try_from(size).unwrap_or_default();
    let mut content = Vec::with_capacity(size + BLOCK);
    while content.len() < size {
        let end = content.len() + BLOCK;
        let noise = random.next().is_multiple_of(NOISE);
        while content.len() < end {
            let number = random.next();
            if noise {
                content.extend_from_slice(&number.to_le_bytes());
            } else if let Some(word) = WORDS.get((number % 16) as usize) {
                content.extend_from_slice(word.as_bytes());
                content.push(b' ');
            }
        }
    }
    content.truncate(size);
    content
}

/// Marsaglia's xorshift with 64 bits of state, which must not be zero.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}
