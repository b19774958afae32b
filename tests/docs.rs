//! The pages about configuration and exit statuses say what the program does.
#![allow(clippy::expect_used, clippy::panic, reason = "a test says what it expects")]

use std::path::Path;

use vmm::cli::Exit;
use vmm::config::PartialConfig;

fn page(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    std::fs::read_to_string(&path).expect("page")
}

/// The first cells of the table rows that start with a code word.
fn first_cells(text: &str) -> Vec<&str> {
    let cell = |line: &'_ str| -> Option<(usize, usize)> {
        let rest = line.strip_prefix("| `")?;
        Some((3, 3 + rest.find('`')?))
    };
    text.lines().filter_map(|line| cell(line).map(|(start, end)| &line[start..end])).collect()
}

/// The keys that the type behind a flag or a table of the file knows, from its own error.
fn known_keys(toml: &str) -> Vec<String> {
    let error = toml::from_str::<PartialConfig>(toml).expect_err("unknown key");
    let (_, known) = error.message().split_once("expected ").expect("known keys");
    let known = known.trim_start_matches("one of ").replace(" or ", ", ");
    known.split(", ").map(|key| key.trim_matches('`').to_owned()).collect()
}

#[test]
fn every_key_has_a_flag_and_every_flag_of_the_machine_a_key() {
    let keys = known_keys("no-such-key = 1");
    let command = vmm::cli::command();
    let others = ["config", "help", "version", "log-level", "log-format", "timing"];
    let flags: Vec<_> = command.get_arguments().filter_map(|arg| arg.get_long()).collect();
    let machine: Vec<_> = flags.into_iter().filter(|flag| !others.contains(flag)).collect();
    let mut sorted_keys = keys.clone();
    sorted_keys.sort();
    let mut sorted_flags = machine.clone();
    sorted_flags.sort_unstable();
    assert_eq!(sorted_flags, sorted_keys);
}

/// The sections of docs/configuration.md about tables of the file.
const TABLES: [(&str, &str); 6] = [
    ("Disks", "[[disk]]"),
    ("Networks", "[[net]]"),
    ("Sockets", "[vsock]"),
    ("Balloon", "[balloon]"),
    ("Limits", "[[limit]]"),
    ("Ports", "[[port]]"),
];

#[test]
fn page_lists_every_flag_and_key() {
    let text = page("docs/configuration.md");
    let (machine, _) = text.split_once("\n## ").expect("sections");
    let flags: Vec<_> = first_cells(machine)
        .into_iter()
        .map(|cell| cell.split(' ').next().unwrap_or(cell).trim_start_matches("--").to_owned())
        .collect();
    assert_eq!(flags, known_keys("no-such-key = 1"));
    for (heading, table) in TABLES {
        let (_, section) = text.split_once(&format!("\n## {heading}\n")).expect(heading);
        let section = section.split("\n## ").next().unwrap_or_default();
        assert_eq!(first_cells(section), known_keys(&format!("{table}\nno-such-key = 1")));
    }
    for flag in ["--log-level", "--log-format", "--config", "--timing"] {
        assert!(machine.contains(flag), "{flag}");
    }
}

#[test]
fn example_configuration_is_read_and_names_every_key() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("resources/vmm.toml");
    let config = vmm::config::load(&path).expect("valid");
    assert_eq!(config.cpus, Some(2));
    assert_eq!(config.kernel, Some(path.with_file_name("vmlinux")));
    let config = config.resolve().expect("complete");
    config.validate(&vmm::config::Host::read()).expect("fits this host");

    let text = page("resources/vmm.toml");
    for key in known_keys("no-such-key = 1") {
        let forms = [format!("{key} = "), format!("[[{key}]]"), format!("[{key}]")];
        assert!(forms.iter().any(|form| text.contains(form)), "{key}");
    }
}

#[test]
fn page_lists_every_exit_status() {
    let text = page("docs/exit-codes.md");
    for exit in Exit::ALL {
        assert!(text.contains(&format!("\n| {} |", exit.code())), "{exit:?}");
    }
}

#[test]
fn machine_has_as_many_places_as_the_configuration_allows_devices() {
    assert_eq!(vmm::config::MAX_VIRTIO_DEVICES, vmm::arch::layout::MAX_VIRTIO_MMIO);
    assert_eq!(vmm::config::MAX_CPUS, vmm::arch::layout::MAX_CPUS);
    assert_eq!(vmm::config::MAX_CMDLINE_LEN, vmm::arch::layout::MAX_CMDLINE);
}
