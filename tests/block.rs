//! The block device: requests that no driver sends, and images that are none.
#![allow(clippy::unwrap_used, reason = "a test fails by a panic")]

mod support;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use support::payload::guest;
use support::request::{
    Asked, DATA, DISCARD, F_DISCARD, F_WRITE_ZEROES, FLUSH, GET_ID, HEADER, IOERR, OK, READ,
    STATUS, UNSUPP, UNWRITTEN, WRITE, WRITE_ZEROES, ask, header, send,
};
use support::ring::Desc;
use support::script::{Script, Width};
use support::subject::{BLOCK, DISK, Everything, FILLING};
use support::vmm::{SOON, Vmm};

const SECTORS: u64 = DISK / 512;

/// A segment of a discard or write-zeroes request.
fn segment(sector: u64, sectors: u32, flags: u32) -> Vec<u8> {
    [&sector.to_le_bytes()[..], &sectors.to_le_bytes(), &flags.to_le_bytes()].concat()
}

/// A discard or write-zeroes request of `segments`.
fn ask_segments(script: &mut Script, features: u64, kind: u32, segments: &[Vec<u8>]) -> Asked {
    let bytes = segments.concat();
    script.copy(DATA, &bytes);
    let parts = [
        Desc::readable(HEADER, 16),
        Desc::readable(DATA, bytes.len() as u32),
        Desc::writable(STATUS, 1),
    ];
    send(script, features, format!("type {kind}: {segments:x?}"), &header(kind, 0), &parts)
}

/// Runs what `build` adds on a machine whose disk is `everything`'s, and has `check` look at it.
fn on_block<T>(
    everything: &Everything,
    build: impl FnOnce(&mut Script) -> T,
    check: impl FnOnce(T, &[u8]),
) {
    let mut script = Script::new();
    let built = build(&mut script);
    let works = BLOCK.works(&mut script);
    let vmm = Vmm::evil(&script.then_reset()).disk(everything.disk.path(), "");
    let end = vmm.run().expect(0);
    check(built, &end.stdout);
    works.expect(&end.stdout, "the case");
}

#[track_caller]
fn expect_untouched(everything: &Everything) {
    let image = fs::read(everything.disk.path()).unwrap();
    assert_eq!(image.len() as u64, DISK);
    assert!(image.iter().all(|byte| *byte == FILLING), "the image was changed");
}

/// B1: the last sector can be had; what ends past the disk cannot, in any arithmetic.
#[test]
fn sectors_past_the_end_report_ioerr() {
    let everything = Everything::new();
    let build = |script: &mut Script| {
        let inside = [ask(script, READ, SECTORS - 1, 512), ask(script, READ, 0, 0x2000)];
        let mut outside = Vec::new();
        for kind in [READ, WRITE] {
            for (sector, len) in [
                (SECTORS, 512),
                (SECTORS - 1, 1024),
                (SECTORS - 8, 0x2000),
                (1 << 55, 512),
                ((1 << 55) - 1, 1024),
                (1 << 63, 512),
                (u64::MAX, 512),
                (u64::MAX - 1, 1024),
            ] {
                outside.push(ask(script, kind, sector, len));
            }
        }
        (inside, outside)
    };
    on_block(&everything, build, |(inside, outside), output| {
        inside.iter().for_each(|asked| asked.expect(output, OK));
        outside.iter().for_each(|asked| asked.expect(output, IOERR));
    });
    expect_untouched(&everything);
}

/// B2: data that is no whole number of sectors, and far more than a request may have.
#[test]
fn data_of_impossible_size_reports_ioerr() {
    let everything = Everything::new();
    let build = |script: &mut Script| {
        let mut asked = Vec::new();
        for kind in [READ, WRITE] {
            for len in [1, 511, 513, 0x1001] {
                asked.push(ask(script, kind, 0, len));
            }
            let big = match kind {
                READ => Desc::writable(DATA, 0x80_0000),
                _ => Desc::readable(DATA, 0x80_0000),
            };
            let mut parts = vec![big; 63];
            parts[0] = Desc::readable(HEADER, 16);
            parts.push(Desc::writable(STATUS, 1));
            asked.push(send(script, 0, "half a GiB of data", &header(kind, 0), &parts));
        }
        asked
    };
    on_block(&everything, build, |asked, output| {
        asked.iter().for_each(|asked| asked.expect(output, IOERR));
    });
    expect_untouched(&everything);
}

/// B3: a driver may cut a request into parts as it likes (virtio 1.3, section 2.7.4).
#[test]
fn requests_in_unusual_parts_are_served() {
    let everything = Everything::new();
    let build = |script: &mut Script| {
        let read = header(READ, 0);
        let (data, status) = (Desc::writable(DATA, 512), Desc::writable(STATUS, 1));
        let bytes: Vec<Desc> = (0..16).map(|at| Desc::readable(HEADER + at, 1)).collect();
        let split =
            |at: u32| [Desc::readable(HEADER, at), Desc::readable(HEADER + u64::from(at), 16 - at)];
        // The status byte is the last of the buffer that holds the data, too.
        let joined = Desc::writable(STATUS - 512, 513);
        vec![
            send(script, 0, "header of bytes", &read, &[&bytes[..], &[data, status]].concat()),
            send(script, 0, "header of 1 + 15", &read, &[&split(1)[..], &[data, status]].concat()),
            send(script, 0, "header of 15 + 1", &read, &[&split(15)[..], &[data, status]].concat()),
            send(script, 0, "status behind the data", &read, &[Desc::readable(HEADER, 16), joined]),
        ]
    };
    on_block(&everything, build, |asked, output| {
        asked.iter().for_each(|asked| asked.expect(output, OK));
    });
}

/// B3: without a whole header or a status byte it is no request.
#[test]
fn requests_without_header_or_status_break_the_device() {
    let everything = Everything::new();
    let build = |script: &mut Script| {
        let read = header(READ, 0);
        let (whole, data) = (Desc::readable(HEADER, 16), Desc::writable(DATA, 512));
        let status = Desc::writable(STATUS, 1);
        let short = send(script, 0, "header of 15", &read, &[Desc::readable(HEADER, 15), status]);
        let none = send(script, 0, "no header", &read, &[data, status]);
        let others = vec![
            send(script, 0, "no status", &read, &[whole]),
            send(script, 0, "status to be read", &read, &[whole, Desc::readable(STATUS, 1)]),
            send(script, 0, "status of no bytes", &read, &[whole, data, Desc::writable(STATUS, 0)]),
            send(script, 0, "status before the header", &read, &[status, whole]),
        ];
        (short, none, others)
    };
    on_block(&everything, build, |(short, none, others), output| {
        for asked in [&short, &none] {
            asked.expect_broken(output);
            assert_eq!(asked.answer(output).status, IOERR, "{}", asked.what);
        }
        for asked in others {
            asked.expect_broken(output);
            assert_eq!(asked.answer(output).status, UNWRITTEN, "{}", asked.what);
        }
    });
    expect_untouched(&everything);
}

/// B4.
#[test]
fn impossible_discards_and_zeroes_are_refused_and_change_nothing() {
    let everything = Everything::new();
    let build = |script: &mut Script| {
        let mut asked = Vec::new();
        for (kind, feature) in [(DISCARD, F_DISCARD), (WRITE_ZEROES, F_WRITE_ZEROES)] {
            let mut with = |segments: &[Vec<u8>], status| {
                asked.push((ask_segments(script, feature, kind, segments), status));
            };
            with(&[segment(SECTORS, 1, 0)], IOERR);
            with(&[segment(SECTORS - 1, 2, 0)], IOERR);
            with(&[segment(0, u32::MAX, 0)], IOERR);
            with(&[segment(u64::MAX, 1, 0)], IOERR);
            with(&[segment(u64::MAX, u32::MAX, 0)], IOERR);
            with(&[segment(1 << 55, 1, 0)], IOERR);
            with(&vec![segment(0, 1, 0); 17], IOERR);
            with(&[segment(0, 1, 0)[..15].to_vec()], IOERR);
            with(&[segment(0, 1, 2)], UNSUPP);
            with(&[segment(0, 1, u32::MAX)], UNSUPP);
            // The second is impossible: the first must not be done either.
            with(&[segment(0, 1, 0), segment(SECTORS, 1, 0)], IOERR);
            asked.push((ask_segments(script, 0, kind, &[segment(0, 8, 0)]), UNSUPP));
        }
        asked
    };
    on_block(&everything, build, |asked, output| {
        asked.iter().for_each(|(asked, status)| asked.expect(output, *status));
    });
    expect_untouched(&everything);
}

/// B4: overlapping segments are legal, and so is one of no sectors.
#[test]
fn overlapping_discards_are_done_and_nothing_else_is() {
    let everything = Everything::new();
    let build = |script: &mut Script| {
        let overlapping = [segment(8, 8, 0), segment(8, 8, 0), segment(12, 8, 0)];
        let discarded = ask_segments(script, F_DISCARD, DISCARD, &overlapping);
        let zeroed = ask_segments(script, F_WRITE_ZEROES, WRITE_ZEROES, &[segment(40, 8, 0)]);
        (discarded, zeroed)
    };
    on_block(&everything, build, |(discarded, zeroed), output| {
        discarded.expect(output, OK);
        zeroed.expect(output, OK);
    });
    let image = fs::read(everything.disk.path()).unwrap();
    let (zeroes, kept) = (&image[40 * 512..48 * 512], &image[48 * 512..]);
    assert!(zeroes.iter().all(|byte| *byte == 0));
    assert!(image[..8 * 512].iter().chain(kept).all(|byte| *byte == FILLING));
}

/// B5.
#[test]
fn unknown_request_types_report_unsupp() {
    let everything = Everything::new();
    let build = |script: &mut Script| {
        let unknown = (2..32).filter(|kind| ![FLUSH, GET_ID].contains(kind));
        // Discard and write-zeroes are unknown to a driver that did not negotiate them.
        let unknown = unknown.chain([0x100, 0x8000_0000, 0x8000_0001, u32::MAX]);
        unknown.map(|kind| ask(script, kind, 0, 512)).collect::<Vec<_>>()
    };
    on_block(&everything, build, |asked, output| {
        asked.iter().for_each(|asked| asked.expect(output, UNSUPP));
    });
    expect_untouched(&everything);
}

/// B6: the file of a read-only disk is opened for reading alone, and nothing changes it.
#[test]
fn read_only_disk_refuses_every_change() {
    let everything = Everything::new();
    let mut script = Script::new();
    let write = ask(&mut script, WRITE, 0, 512);
    let read = ask(&mut script, READ, 0, 512);
    script.pause();
    let image = everything.disk.path();
    let mut machine = Vmm::evil(&script.then_reset()).disk(image, ",readonly=on").spawn();
    machine.wait_for_output(1);
    assert!(machine.opens_read_only(image));
    machine.type_in(b"\n");
    let end = machine.finish().expect(0);
    write.expect(&end.stdout, IOERR);
    read.expect(&end.stdout, OK);
    expect_untouched(&everything);
}

/// B6: neither are discards offered, nor taken from a driver that asks all the same.
#[test]
fn read_only_disk_offers_no_discard() {
    let everything = Everything::new();
    let mut script = Script::new();
    let asked = [
        ask_segments(&mut script, 0, DISCARD, &[segment(0, 8, 0)]),
        ask_segments(&mut script, 0, WRITE_ZEROES, &[segment(0, 8, 0)]),
    ];
    // Accepting the feature fails: FEATURES_OK is not kept, so nothing is served.
    let refused = ask_segments(&mut script, F_DISCARD, DISCARD, &[segment(0, 8, 0)]);
    let vmm = Vmm::evil(&script.then_reset()).disk(everything.disk.path(), ",readonly=on");
    let end = vmm.run().expect(0);
    asked.iter().for_each(|asked| asked.expect(&end.stdout, UNSUPP));
    assert_eq!(refused.answer(&end.stdout).state.used_index, 0);
    expect_untouched(&everything);
}

/// B7: the id has 20 bytes, and is given whole or not at all.
#[test]
fn id_is_given_whole_or_not_at_all() {
    let everything = Everything::new();
    let build = |script: &mut Script| {
        let short = [0, 1, 19].map(|len| ask(script, GET_ID, 0, len));
        script.fill(DATA, 4096, u64::MAX);
        let long = [20, 4096].map(|len| ask(script, GET_ID, 0, len));
        (short, long, script.dump(DATA, 4))
    };
    on_block(&everything, build, |(short, long, data), output| {
        short.iter().for_each(|asked| asked.expect(output, IOERR));
        long.iter().for_each(|asked| asked.expect(output, OK));
        let (id, behind) = data.bytes(output).split_at(20);
        assert_eq!(id, b"disk0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0");
        assert!(behind.iter().all(|byte| *byte == 0xff));
        assert_eq!(long[1].answer(output).state.used_len, 20);
    });
}

/// B14: an image that one machine writes is refused to a second, whether that writes or reads;
/// once the first has ended it is free.
#[test]
fn second_machine_on_an_image_is_refused() {
    let everything = Everything::new();
    let image = everything.disk.path();
    let mut script = Script::new();
    script.pause();
    let mut first = Vmm::evil(&script.then_reset()).disk(image, "").spawn();
    first.wait_for_output(1);
    for mode in ["", ",readonly=on"] {
        let second = Vmm::with_guest("null").disk(image, mode).run().expect(3);
        let line = second.expect_one_line_error();
        assert!(line.contains("locked"), "{line}");
    }
    first.type_in(b"\n");
    first.finish().expect(0);
    Vmm::with_guest("null").disk(image, "").run().expect(0);
    expect_untouched(&everything);
}

/// B14: readers share; and a machine that was killed has left no lock.
#[test]
fn readers_share_an_image_and_a_killed_machine_leaves_no_lock() {
    let everything = Everything::new();
    let image = everything.disk.path();
    let mut script = Script::new();
    script.pause();
    let script = script.then_reset();
    let mut first = Vmm::evil(&script).disk(image, ",readonly=on").spawn();
    first.wait_for_output(1);
    Vmm::with_guest("null").disk(image, ",readonly=on").run().expect(0);
    Vmm::with_guest("null").disk(image, "").run().expect(3);
    drop(first);
    Vmm::with_guest("null").disk(image, "").run().expect(0);
}

/// B15: whatever a guest writes, its disk is raw the next time, too: same size, same bytes.
#[test]
fn disk_that_looks_like_another_format_stays_raw() {
    // The magic numbers of qcow2 (with a backing file name), VMDK, VHDX, QED and an MBR.
    let backing =
        [b"QFI\xfb\0\0\0\x03\0\0\0\0\0\0\x01\0\0\0\0\x0b".as_slice(), &[0; 236], b"/etc/passwd"];
    let headers: [&[u8]; 4] =
        [&backing.concat(), b"KDMV\x01\0\0\0", b"vhdxfile", b"QED\0\0\0\x01\0"];
    for header in headers {
        let everything = Everything::new();
        let build = |script: &mut Script| {
            script.fill(DATA, 512, 0);
            script.copy(DATA, header);
            ask(script, WRITE, 0, 512)
        };
        on_block(&everything, build, |asked, output| asked.expect(output, OK));
        let image = fs::read(everything.disk.path()).unwrap();
        assert!(image.starts_with(header));
        assert!(image[512..].iter().all(|byte| *byte == FILLING));

        let build = |script: &mut Script| {
            let capacity = script.read(Width::B8, BLOCK.device.register(0x100));
            let asked = ask(script, READ, 0, 512);
            (capacity, asked, script.dump(DATA, 2))
        };
        on_block(&everything, build, |(capacity, asked, data), output| {
            assert_eq!(capacity.number(output), SECTORS);
            asked.expect(output, OK);
            assert!(data.bytes(output).starts_with(&header[..8]));
        });
    }
}

/// B17: what is no regular file is refused at once and by name; a symbolic link is followed.
#[test]
fn images_that_are_no_files_are_refused_without_waiting() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    rustix::fs::mkfifoat(rustix::fs::CWD, at("fifo"), rustix::fs::Mode::RUSR).unwrap();
    symlink(at("fifo"), at("link-to-fifo")).unwrap();
    symlink(at("loop"), at("loop")).unwrap();
    fs::create_dir(at("directory")).unwrap();
    let _listener = std::os::unix::net::UnixListener::bind(at("socket")).unwrap();
    let other = ["/dev/zero", "/dev/null", "/dev/kvm", "/proc/self/mem", "/dev/stdin"];
    let images = ["fifo", "link-to-fifo", "loop", "directory", "socket"].map(at);
    for image in images.iter().map(AsRef::as_ref).chain(other.iter().map(Path::new)) {
        for mode in ["", ",readonly=on"] {
            let end = Vmm::with_guest("null").disk(image, mode).run().expect(2);
            let line = end.expect_one_line_error();
            assert!(line.contains(image.to_str().unwrap()), "{line}");
            assert!(end.lasted < SOON, "{}: {:?}", image.display(), end.lasted);
        }
    }
    let everything = Everything::new();
    symlink(everything.disk.path(), at("link")).unwrap();
    Vmm::with_guest("null").disk(&at("link"), "").run().expect(0);
}

/// K9, K1: the same for kernels and initial RAM disks; and files with nothing in them.
#[test]
fn kernels_that_are_no_files_are_refused_without_waiting() {
    let dir = tempfile::tempdir().unwrap();
    let fifo = dir.path().join("fifo");
    rustix::fs::mkfifoat(rustix::fs::CWD, &fifo, rustix::fs::Mode::RUSR).unwrap();
    let empty = dir.path().join("empty");
    fs::write(&empty, "").unwrap();
    let sparse = dir.path().join("sparse");
    fs::File::create(&sparse).unwrap().set_len(1 << 40).unwrap();
    let paths =
        [&fifo, dir.path(), Path::new("/dev/zero"), Path::new("/proc/self/mem"), &empty, &sparse];
    for path in paths {
        let as_kernel = Vmm::new().arg("--kernel").arg(path);
        let as_initrd = Vmm::new().arg("--kernel").arg(guest("null")).arg("--initrd").arg(path);
        for vmm in [as_kernel, as_initrd] {
            let end = vmm.run().expect(2);
            end.expect_one_line_error();
            assert!(end.lasted < SOON, "{}: {:?}", path.display(), end.lasted);
        }
    }
}
