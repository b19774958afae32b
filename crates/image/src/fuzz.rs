//! What a fuzzer reads as the documents of an image, the name of one, an archive's table of contents,
//! and what a registry asks for.

use std::fs::File;
use std::io::Write;
use std::path::Path;

use rustix::fs::{MemfdFlags, memfd_create};

use crate::oci::{Document, MAX_LAYERS, parse_config, parse_document};
use crate::reference::{Name, Reference};
use crate::source;

/// Reads `data` behind its first byte as what that byte says. What can be read holds what it promises.
pub fn image(data: &[u8]) {
    let Some((kind, rest)) = data.split_first() else { return };
    match kind % 5 {
        0 => document(rest),
        1 => config(rest),
        2 => reference(rest),
        3 => archive(rest),
        _ => source::registry::fuzz_challenge(&String::from_utf8_lossy(rest)),
    }
}

fn document(data: &[u8]) {
    let kinds = [
        "application/vnd.oci.image.index.v1+json",
        "application/vnd.oci.image.manifest.v1+json",
        "application/vnd.docker.distribution.manifest.v2+json; charset=utf-8",
    ];
    let read = parse_document(data, None);
    for kind in kinds {
        if let Ok(Document::Manifest(manifest)) = parse_document(data, Some(kind)) {
            assert!((1..=MAX_LAYERS).contains(&manifest.layers.len()));
            assert!(matches!(read, Ok(Document::Manifest(_))), "what is said makes no manifest");
        }
    }
}

fn config(data: &[u8]) {
    let Ok(config) = parse_config(data) else { return };
    assert!((1..=MAX_LAYERS).contains(&config.diff_ids.len()));
    let image = config.image;
    let texts = image.env.iter().chain(&image.cmd).chain(&image.entrypoint).chain([&image.user]);
    assert!(texts.chain(&image.stop_signal).all(|text| !text.contains('\0')));
}

fn reference(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    match text.parse() {
        Ok(Reference::Registry(name)) => {
            assert_eq!(name.to_string().parse().as_ref(), Ok(&name));
            assert_eq!(name.familiar().parse::<Name>().as_ref(), Ok(&name));
            assert!(!name.repository().contains("..") && !name.registry().starts_with('-'));
        }
        Ok(Reference::Local(local)) => assert!(!local.path.as_os_str().is_empty()),
        Err(error) => assert!(!error.to_string().contains(char::is_control)),
    }
}

fn archive(data: &[u8]) {
    let Ok(file) = memfd_create("archive", MemfdFlags::CLOEXEC) else { return };
    let mut file = File::from(file);
    if file.write_all(data).is_ok() {
        source::fuzz_archive(&file, Path::new("archive"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(line: &str) -> Vec<u8> {
        let digits = line.as_bytes().chunks(2);
        let byte = |pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
        digits.map(byte).collect()
    }

    #[test]
    fn corpus_is_survived() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fuzz/corpus/image.hex");
        let inputs: Vec<_> = std::fs::read_to_string(path).unwrap().lines().map(bytes).collect();
        assert!((0..5).all(|kind| inputs.iter().any(|input| input[0] % 5 == kind)));
        for input in &inputs {
            image(input);
            // Every one of them cut off, and with a byte changed.
            for at in 0..input.len() {
                image(&input[..at]);
                let mut changed = input.clone();
                changed[at] ^= 0x55;
                image(&changed);
            }
        }
    }
}
