//! What runs in an emulated host of another architecture when no test is named.
//!
//! All tests take hours there. These show every way to boot and to end, every device under a kernel's driver and under
//! a guest that means harm, and the code that only that architecture has. Whatever else there is runs by its name.

use anyhow::{Context, Result, ensure};

/// Names of test programs, each with tests of its own.
pub(super) type List = [(&'static str, &'static [&'static str])];

/// Tests with a guest, by their full names. The longest come first, so that all hosts end together.
pub(super) const GUESTS: &List = &[
    (
        "linux",
        &[
            // These three share a first start, which warms the host up.
            "containers::sources::smallest_image_runs_and_ends_as_its_command",
            "containers::sources::image_of_a_distribution_runs_its_own_programs",
            "containers::services::published_port_of_the_smallest_image_answers",
            "containers::attach::process_of_exec_ends_with_its_client_and_the_container_goes_on",
            "containers::lifecycle::memory_limit_is_the_containers_own",
            "containers::failures::kernel_of_another_architecture_is_told",
            "containers::flags::kernel_and_platform_are_the_users_choice",
            "containers::contrast::startup_is_measured_in_every_arm_that_is_here",
            "containers::figures::one_probe_measures_within_containers_and_machines",
            "containers::isolation::machine_has_a_kernel_of_its_own_and_a_container_the_hosts",
            "package::package_is_installed_runs_machines_and_containers_and_leaves_nothing",
            "boot::smallest_usual_and_large_memory",
            "boot::one_two_and_four_cpus_come_up",
            "ends::power_off_and_reboot_end_with_success",
            "aarch64::seventeen_cpus_share_one_package",
            "aarch64::zboot_image_boots",
            "aarch64::kernels_of_another_architecture_are_named",
            "aarch64::kernel_knows_its_firmware_and_its_clock",
            "aarch64::programs_find_the_features_that_were_asked_for",
            "aarch64::kernel_drives_the_performance_counters_that_were_asked_for",
            "aarch64::guest_has_the_interrupt_controller_of_its_host",
            "boot::kernel_boots_with_the_default_command_line",
            "boot::packed_kernel_boots",
            "boot::initrd_boots_without_a_disk",
            "boot::unmodified_debian_kernel_reaches_userland",
            "boot::clock_tells_the_time_and_advances",
            "boot::entropy_comes_from_the_host",
            "ends::panic_has_its_own_status_and_the_last_lines_are_shown",
            "ends::sigterm_ends_a_running_guest_with_its_number",
            "ends::doctor_finds_hardware_that_runs_guest_kernels",
            "balloon::balloon_takes_its_size_from_the_guest",
            "block::data_survives_sync_and_reboot",
            "block::read_only_disk_refuses_writes_and_keeps_its_bytes",
            "console::virtio_console_is_a_terminal_that_follows_the_size_of_the_users",
            "net::ping_reaches_the_host_with_every_size",
            "vsock::streams_arrive_whole_both_ways_and_end_one_way_at_a_time",
        ],
    ),
    (
        "balloon",
        &[
            "memory_given_back_leaves_the_monitor_and_only_that",
            "page_numbers_that_are_no_memory_are_ignored",
            "requests_of_a_wrong_form_break_the_balloon_alone",
        ],
    ),
    (
        "block",
        &[
            "disk_that_looks_like_another_format_stays_raw",
            "impossible_discards_and_zeroes_are_refused_and_change_nothing",
            "requests_without_header_or_status_break_the_device",
            "second_machine_on_an_image_is_refused",
            "sectors_past_the_end_report_ioerr",
        ],
    ),
    (
        "chains",
        &[
            "buffers_outside_memory_break_the_device",
            "chains_that_loop_break_the_device",
            "impossible_lengths_break_the_device",
            "indirect_descriptors_follow_the_rules_or_break_the_device",
            "lengths_that_wrap_together_break_the_device",
            "next_index_beyond_the_table_breaks_the_device",
        ],
    ),
    ("emulated_host", &["fresh_programs_are_first_on_the_path", "kvm_is_that_of_hardware"]),
    (
        "mmio",
        &[
            "features_are_refused_unless_offered_and_in_time",
            "queue_registers_written_at_work_are_ignored",
            "queues_that_do_not_exist_are_empty_and_take_nothing",
            "read_only_registers_keep_their_value_and_the_others_read_zero",
            "registers_read_zero_unless_read_whole",
        ],
    ),
    (
        "net",
        &[
            "chains_that_hold_no_frame_break_nothing_else",
            "frames_with_an_impossible_header_are_dropped",
            "good_frames_arrive_at_the_host",
        ],
    ),
    (
        "platform",
        &[
            "aarch64::access_that_kvm_cannot_decode_ends_the_machine_with_status_6",
            "aarch64::calls_of_the_firmware_end_the_machine_with_their_status",
            "aarch64::calls_of_the_firmware_for_what_is_not_there_are_refused",
            "aarch64::clock_and_panic_notification_bear_any_value",
            "empty_addresses_read_all_ones_even_after_writes",
            "feature_of_cpus_that_is_not_to_be_had_is_refused",
            "aarch64::host_without_an_interrupt_controller_for_guests_is_named",
            "aarch64::exceptions_without_end_leave_the_machine_in_hand",
            "aarch64::serial_port_in_memory_bears_any_value_and_still_prints",
            "aarch64::sigterm_ends_a_guest_that_never_exits",
            "aarch64::storm_of_accesses_leaves_the_machine_in_hand",
            "aarch64::storm_of_interrupts_to_oneself_is_harmless",
        ],
    ),
    (
        "queues",
        &[
            "available_index_out_of_step_breaks_the_device",
            "available_index_that_goes_backwards_breaks_the_device",
            "heads_beyond_the_table_break_the_device_and_equal_heads_are_served",
            "kicks_are_served_only_at_work",
            "overlapping_rings_harm_only_themselves",
            "queues_that_share_their_rings_harm_only_themselves",
            "sizes_beyond_16_bits_break_the_device",
            "used_ring_written_by_the_guest_is_not_believed",
        ],
    ),
    ("rng", &["request_for_4_gib_gets_64_kib"]),
    (
        "vsock",
        &[
            "nonsense_at_the_socket_harms_nobody",
            "socket_in_use_is_refused_and_one_left_behind_is_replaced",
        ],
    ),
];

/// Tests with a guest that run once more, in a host with another processor and interrupt controller.
pub(super) const GICV2_MAX_GUESTS: &List = &[(
    "linux",
    &[
        "aarch64::guest_has_the_interrupt_controller_of_its_host",
        "aarch64::ninth_cpu_takes_the_newer_interrupt_controller",
        "aarch64::programs_find_the_features_that_were_asked_for",
    ],
)];

/// Unit tests of packages, by what their names contain.
pub(super) const UNITS: &List = &[
    (
        "vmm",
        &["arch::", "bus::", "config::", "doctor::", "kvm::", "machine::", "memory::", "metrics::"],
    ),
    ("vmm-agent", &[""]),
    ("vmm-probe", &[""]),
    ("vmm-protocol", &[""]),
    ("vmm-sandbox", &[""]),
];

/// Those that run once more, as [`GICV2_MAX_GUESTS`] do.
pub(super) const GICV2_MAX_UNITS: &List = &[("vmm", &["arch::native::tests::"])];

/// The tests that a program has.
#[derive(Clone)]
pub(super) struct Listed {
    /// The program's name.
    pub(super) program: String,
    /// Full names of its tests.
    pub(super) tests: Vec<String>,
}

/// The tests of the list `usual`, of programs that have those of `listed`.
///
/// # Errors
/// A program or a test is not there.
pub(super) fn among(usual: &List, listed: &[Listed]) -> Result<Vec<Listed>> {
    let of_program = |(program, tests): &(&str, &[&str])| {
        let listed = listed.iter().find(|listed| listed.program == *program);
        let listed = listed.with_context(|| format!("no test program is called {program}"))?;
        check(program, tests, |test| listed.tests.iter().any(|name| name == test))?;
        let tests = tests.iter().map(|&test| test.to_owned()).collect();
        Ok(Listed { tests, ..listed.clone() })
    };
    usual.iter().map(of_program).collect()
}

/// Those unit tests of `listed` that are of the list `usual`.
pub(super) fn units(usual: &List, listed: &[Listed]) -> Vec<Listed> {
    let of_program = |listed: &Listed| {
        let parts = usual.iter().filter(|(package, _)| is_of(package, listed));
        let parts: Vec<_> = parts.flat_map(|(_, parts)| *parts).collect();
        let mut tests = listed.tests.clone();
        tests.retain(|test| parts.iter().any(|part| test.contains(**part)));
        Listed { tests, ..listed.clone() }
    };
    listed.iter().map(of_program).collect()
}

/// Whether a program has the unit tests of `package`. A library and a program of one package have one name, but for the
/// number that cargo adds.
fn is_of(package: &str, listed: &Listed) -> bool {
    let name = listed.program.rsplit_once('-').map(|(name, _)| name);
    name == Some(package.replace('-', "_").as_str())
}

/// The turns of the list `usual`, for programs that have these tests: one for each program that has any of them.
///
/// # Errors
/// A package, or a test of that name, is not there.
pub(super) fn unit_turns(usual: &List, listed: &[Listed]) -> Result<Vec<String>> {
    let mut lines = vec![];
    for (package, parts) in usual {
        let of_package: Vec<_> = listed.iter().filter(|listed| is_of(package, listed)).collect();
        let has = |listed: &Listed, part: &str| listed.tests.iter().any(|name| name.contains(part));
        check(package, parts, |part| of_package.iter().any(|listed| has(listed, part)))?;
        let with_any =
            of_package.into_iter().filter(|listed| parts.iter().any(|part| has(listed, part)));
        lines.extend(with_any.map(|listed| format!("{} {}", listed.program, parts.join(" "))));
    }
    Ok(lines)
}

fn check(program: &str, tests: &[&str], is_there: impl Fn(&str) -> bool) -> Result<()> {
    let missing: Vec<_> = tests.iter().filter(|test| !is_there(test)).collect();
    ensure!(missing.is_empty(), "{program} has no tests {missing:?}, which are usual");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listed(program: &str, tests: &[&str]) -> Listed {
        let tests = tests.iter().map(|&test| test.to_owned()).collect();
        Listed { program: program.to_owned(), tests }
    }

    #[test]
    fn usual_tests_run_by_their_full_names_and_must_exist() {
        let usual: &List = &[("linux", &["a::x", "a::y"])];
        let all = [listed("mmio", &["a::z"]), listed("linux", &["a::z", "a::y", "a::x"])];
        let found = among(usual, &all).unwrap();
        assert_eq!((found.len(), found[0].program.as_str()), (1, "linux"));
        assert_eq!(found[0].tests, ["a::x", "a::y"]);
        let error = among(usual, &[listed("linux", &["a::x", "a::y2"])]).err().unwrap();
        assert_eq!(error.to_string(), "linux has no tests [\"a::y\"], which are usual");
        assert!(among(usual, &all[..1]).is_err());
    }

    #[test]
    fn usual_unit_tests_run_where_a_package_has_them() {
        let usual: &List = &[("vmm", &["arch::", "kvm::"]), ("vmm-agent", &[""])];
        let library = listed("vmm-1", &["arch::a", "devices::b", "kvm::c"]);
        let others = [listed("vmm-2", &["cli::a"]), listed("vmm_agent-3", &["b"])];
        let all = [std::slice::from_ref(&library), &others].concat();
        assert_eq!(unit_turns(usual, &all).unwrap(), ["vmm-1 arch:: kvm::", "vmm_agent-3 "]);
        let found: Vec<_> = units(usual, &all).into_iter().map(|listed| listed.tests).collect();
        assert_eq!(found, [&["arch::a", "kvm::c"][..], &[], &["b"]]);
        assert!(unit_turns(usual, &others).is_err());
    }
}
