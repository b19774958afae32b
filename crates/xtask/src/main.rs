//! Developer commands of the project.

mod arch;
mod archive;
mod artifacts;
mod bench;
mod cache;
mod check;
mod command;
mod cross;
mod deb;
mod debian;
mod demo;
mod docs;
mod fuzz;
mod host;
mod icount;
mod image;
mod images;
mod kernel;
mod packages;
mod rootfs;
mod test;
mod totals;
mod workspace;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::{Args, Parser, Subcommand};

use arch::Arch;
use cache::Cache;
use host::{HostError, Job};
use workspace::Profile;

/// Exit status when the emulated host failed, as opposed to the command in it.
const HOST_FAILED: u8 = 125;

/// Exit status when the command took too long, as timeout(1) has it.
const TIMED_OUT: u8 = 124;

/// Developer commands: guest kernels, root filesystems, test hosts, tests, the demonstration.
///
/// Each command does all of its own set-up: it installs missing Debian packages (with sudo when not
/// root, after naming them) and keeps what it builds in ~/.cache/vmm.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    command: Top,
}

#[derive(Subcommand)]
enum Top {
    /// Boot a Linux guest with a disk and a network
    ///
    /// On a terminal: a shell in the guest; leave it with `poweroff` or Ctrl-a x. Without one: a
    /// scripted visit, which prints what it saw and ends with `demo: ok`. The guest boots here when
    /// this machine's KVM runs guest kernels in hardware, else in the emulated host.
    Demo,
    /// Run every test, each in a place that can run it
    ///
    /// Ends with one line of totals. A place that cannot run counts as a failure. Examples:
    ///   cargo xtask test                 everything
    ///   cargo xtask test native          only what needs no guest kernel
    ///   cargo xtask test guest block     guest tests with `block` in their name
    ///   cargo xtask test aarch64         unit and guest tests in an emulated aarch64 host
    #[command(verbatim_doc_comment)]
    Test(test::TestArgs),
    /// Measure the figures of docs/performance.md
    ///
    /// Each is measured against QEMU's smallest machine in the same run, containers against runc and
    /// crun; a missed goal is reported, not failed. Examples:
    ///   cargo xtask bench                everything; writes summary.json below target/bench/
    ///   cargo xtask bench null memory    only these
    #[command(verbatim_doc_comment)]
    Bench(bench::BenchArgs),
    /// Feed hostile inputs to queues, registers, devices and the configuration
    ///
    /// Needs the nightly compiler, and installs cargo-fuzz. Examples:
    ///   cargo xtask fuzz                         a minute each
    ///   cargo xtask fuzz block net --time 600    ten minutes for these
    #[command(verbatim_doc_comment)]
    Fuzz(fuzz::FuzzArgs),
    /// Take measurements in the place that is measured
    #[command(hide = true)]
    BenchInside(bench::InsideArgs),
    /// Lint the workspace, for this machine's processor or for another
    ///
    /// A warning is an error. Example:
    ///   cargo xtask check --arch aarch64
    #[command(verbatim_doc_comment)]
    Check(check::CheckArgs),
    /// Make the Debian package and print where it is
    ///
    /// Programs, guest kernels, pages. Example:
    ///   cargo xtask deb --arch aarch64
    #[command(verbatim_doc_comment)]
    Deb(deb::DebArgs),
    /// Build guest kernels and print where they are
    Kernel(kernel::KernelArgs),
    /// Count the instructions of a guest kernel from its entry to its first process
    Icount(icount::IcountArgs),
    /// Build the root filesystems and print where they are
    Rootfs(RootfsArgs),
    /// Build the container images of the tests and print where they are
    ///
    /// Each is an OCI layout. Examples:
    ///   cargo xtask images                all that the tests need
    ///   cargo xtask images busybox big    only these
    #[command(verbatim_doc_comment)]
    Images(images::ImagesArgs),
    /// Make what of the documentation is not written by hand
    ///
    /// Man pages and shell completions go to target/docs, measurements into the tables of docs/contrast.md.
    Docs(docs::DocsArgs),
    /// Use the emulated host: a small Debian machine with hardware KVM, on any machine
    #[command(subcommand)]
    Host(HostCommand),
}

#[derive(Subcommand)]
enum HostCommand {
    /// Run one command in a fresh emulated host and exit with its status
    ///
    /// The command runs as root in /root, with fresh builds of vmm and its helpers on its PATH and the
    /// cache's kernels, root filesystems and container images under /srv/vmm. Its streams are ours,
    /// its arguments are passed as they are. Exit status: 124 time ran out, 125 the host failed, else the command's own.
    ///   cargo xtask host run -- ls -l /dev/kvm /srv/vmm/kernels
    ///   cargo xtask host run --arch aarch64 -- uname -a
    ///   cargo xtask host run --copy ./disk.img:/tmp/disk.img -- fio --filename=disk.img ...
    #[command(verbatim_doc_comment)]
    Run(RunArgs),
    /// Open a shell in a fresh emulated host; leaving it throws the host away
    ///
    /// Fresh builds of vmm and its helpers are on its PATH; kernels, root filesystems and container
    /// images are under /srv/vmm.
    Shell(HostArgs),
}

#[derive(Args)]
struct RootfsArgs {
    /// The architecture of the guests
    #[arg(long, value_enum, default_value_t)]
    arch: Arch,
}

#[derive(Args)]
struct RunArgs {
    #[command(flatten)]
    host: HostArgs,
    /// End the command after this long
    #[arg(long, value_name = "SECONDS")]
    timeout: Option<u64>,
    /// The command and its arguments
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

#[derive(Args)]
struct HostArgs {
    /// Copy a file or directory into the host before (may be repeated)
    #[arg(long, value_name = "SRC:DST")]
    copy: Vec<String>,
    /// The architecture of the host
    #[arg(long, value_enum, default_value_t)]
    arch: Arch,
    /// Processors of the host
    #[arg(long, default_value_t = 1)]
    cpus: u32,
    /// Memory of the host in MiB
    #[arg(long, default_value_t = 4096, value_name = "MIB")]
    memory: u32,
    /// Build vmm with the development profile: sooner done, slower to run
    #[arg(long)]
    dev: bool,
    /// Go without vmm, kernels, root filesystems and images: nothing is built but the host
    #[arg(long, conflicts_with = "dev")]
    bare: bool,
}

fn main() -> ExitCode {
    if host::init::is_our_role() {
        host::init::main();
    }
    if bench::guest::is_our_role() {
        bench::guest::main();
    }
    let command = Cli::parse().command;
    // The status 1 of a command in the host must not be taken for a failure of ours.
    let failure = if matches!(command, Top::Host(_)) { HOST_FAILED } else { 1 };
    match run(command) {
        Ok(status) => ExitCode::from(u8::try_from(status).unwrap_or(failure)),
        Err(error) => {
            eprintln!("xtask: {error:#}");
            let timed_out = matches!(error.downcast_ref(), Some(HostError::TimedOut(_)));
            ExitCode::from(if timed_out { TIMED_OUT } else { failure })
        }
    }
}

fn run(command: Top) -> Result<i32> {
    match command {
        Top::Demo => {
            install_packages(Arch::X86_64)?;
            demo::run()
        }
        Top::Test(arguments) => {
            // Native tests make x86_64 images.
            install_packages(Arch::X86_64)?;
            for arch in arguments.hosts() {
                install_packages(arch)?;
            }
            test::run(&arguments)
        }
        Top::Bench(arguments) => {
            install_packages(Arch::X86_64)?;
            bench::run(&arguments)
        }
        Top::Fuzz(arguments) => fuzz::run(&arguments).map(|()| 0),
        Top::BenchInside(arguments) => bench::run_inside(arguments).map(|()| 0),
        Top::Check(arguments) => check::run(&arguments).map(|()| 0),
        Top::Deb(arguments) => deb::run(&arguments).map(|()| 0),
        Top::Kernel(arguments) => kernel::run(&arguments).map(|()| 0),
        Top::Icount(arguments) => icount::run(&arguments).map(|()| 0),
        Top::Rootfs(RootfsArgs { arch }) => build_rootfs(arch).map(|()| 0),
        Top::Images(arguments) => images::run(&arguments).map(|()| 0),
        Top::Docs(arguments) => docs::run(&arguments).map(|()| 0),
        Top::Host(HostCommand::Run(arguments)) => {
            let mut job = host_job(arguments.command, &arguments.host)?;
            job.timeout = arguments.timeout.map(Duration::from_secs);
            job.run()
        }
        Top::Host(HostCommand::Shell(arguments)) => {
            host_job(vec!["/bin/bash".into(), "-l".into()], &arguments)?.interact()
        }
    }
}

/// Installs in one go what kernels, root filesystems and the emulated host of `arch` need.
fn install_packages(arch: Arch) -> Result<()> {
    let lists = [
        debian::PACKAGES,
        &host::packages_for(arch),
        image::PACKAGES,
        images::PACKAGES,
        &kernel::packages_for(arch),
        packages::for_unprivileged_builds(),
    ];
    packages::ensure(&lists.concat())
}

fn host_job(command: Vec<OsString>, arguments: &HostArgs) -> Result<Job> {
    let mut job = Job::new(command);
    job.arch = arguments.arch;
    job.cpus = arguments.cpus;
    job.memory_mib = arguments.memory;
    if !arguments.bare {
        install_packages(arguments.arch)?;
        let profile = if arguments.dev { Profile::Dev } else { Profile::Release };
        artifacts::equip(&mut job, profile)?;
    }
    for copy in &arguments.copy {
        let (from, to) =
            copy.rsplit_once(':').with_context(|| format!("--copy {copy}: write it as SRC:DST"))?;
        job.copy.push((PathBuf::from(from), PathBuf::from(to)));
    }
    Ok(job)
}

fn build_rootfs(arch: Arch) -> Result<()> {
    let cache = Cache::of_user()?;
    let busybox = rootfs::busybox(&cache, arch)?;
    let debian = rootfs::debian(&cache, arch)?;
    for path in [busybox.ext4, busybox.cpio, debian.vmlinuz, debian.initrd] {
        println!("{}", path.display());
    }
    Ok(())
}
