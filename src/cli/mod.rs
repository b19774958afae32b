//! The command line: one file per command, and what they share (exit codes, log, report of errors).

mod bench;
mod boot;
mod container;
mod doctor;
mod exit;
mod hints;
mod images;
mod log;
mod output;
mod report;
mod system;
mod table;

use std::ffi::OsString;
use std::process::ExitCode;
use std::time::Instant;

use clap::{ArgAction, Args, CommandFactory, FromArgMatches, Parser, Subcommand};

use vmm_image::inherited;

use crate::config::PartialConfig;
use crate::container::RunOptions;
use crate::container::timing::Moment;

use container::Hidden;
pub use exit::Exit;

const EXAMPLES: &str = "\
Examples:
  vmm --kernel vmlinux --rootfs root.ext4
      boot a kernel into a shell on its root filesystem
  vmm --kernel vmlinux --rootfs root.ext4 --cpus 2 --memory 1G --net tap=tap0
      with two CPUs, 1 GiB of memory and a network interface on the host's tap0
  vmm --kernel vmlinux --rootfs root.ext4 \
      --net user,ip=10.0.2.15/24,gateway=10.0.2.2,publish=8080:80
      without privilege: connections to port 8080 of this machine reach port 80 of the guest
  vmm --kernel bzImage --initrd initrd.img --append 'quiet'
      boot into an initial RAM disk, adding a word to the kernel command line
  vmm --kernel vmlinux --rootfs base.img --rootfs-readonly --disk path=data.img,id=data
      a root filesystem that cannot change, and a disk the guest finds as serial `data`
  vmm --config vm.toml --memory 2G
      take everything from a file except the memory
  vmm doctor
      say whether guests can run on this machine, and what is missing
  vmm run -it --rm alpine sh
      a container with a kernel of its own; vmm run --help lists docker's flags
  vmm pull oci:./layout --name app
      get a container image from elsewhere than a registry; vmm images lists what is here";

const DETAILS: &str = "\
Console:
  With --console serial (the default) or virtio this terminal is the guest's. Ctrl-a x leaves it and
  ends the guest; Ctrl-a Ctrl-a sends a Ctrl-a. With --console virtio the guest follows its size.

Exit status:
  0      the guest powered off or rebooted, or you left with Ctrl-a x
  2      the command line or the configuration is wrong
  3      the host cannot do it: no /dev/kvm, no permission, tap busy, no passt, disk locked
  4      the guest kernel panicked
  5      the guest faulted beyond recovery (triple fault)
  6      KVM failed
  7      the guest halted with interrupts disabled
  125    a command about images or containers failed
  128+n  ended by signal n

A comma inside a value of --disk, --net or --port is written twice: path=a,,b.img.";

/// Boot a Linux guest with its own kernel in a KVM virtual machine
#[derive(Debug, Parser)]
#[command(
    name = "vmm",
    version,
    args_conflicts_with_subcommands = true,
    disable_help_subcommand = true,
    after_help = EXAMPLES,
    after_long_help = long_after_help(),
)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,

    #[command(flatten)]
    flags: Flags,
}

/// What may be said without a command.
#[derive(Debug, Parser)]
struct Flags {
    #[command(flatten)]
    boot: boot::BootArgs,

    #[command(flatten)]
    log: log::LogArgs,
}

/// What follows `vmm run`; -h is docker's.
#[derive(Debug, Args)]
#[command(override_usage = "vmm run [OPTIONS] IMAGE [COMMAND [ARGUMENT]...]")]
struct RunLine {
    #[command(flatten)]
    options: Box<RunOptions>,

    /// Print help
    #[arg(long, action = ArgAction::Help)]
    help: Option<bool>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Say whether guests can run on this machine, and what is missing
    Doctor(doctor::DoctorArgs),

    /// Run a command in a new container, with a kernel of its own
    #[command(disable_help_flag = true)]
    Run(RunLine),

    #[command(flatten)]
    Container(container::Command),

    /// Get a container image from a registry, a directory or a file
    Pull(images::PullArgs),

    /// List the container images that are here
    Images(images::ImagesArgs),

    /// Remove names of container images, and with their last name the images
    Rmi(images::RmiArgs),

    /// Say what images and containers take on the disk, or give some back
    System(system::SystemArgs),

    /// Measure containers and virtual machines side by side
    #[command(disable_help_flag = true)]
    Bench(bench::BenchArgs),

    /// Say what a container and a virtual machine keep apart, as measured by a program inside
    #[command(disable_help_flag = true)]
    Contrast(bench::BenchArgs),
}

/// The text after the long help: the examples and then what a reader of them asks next.
fn long_after_help() -> String {
    format!("{EXAMPLES}\n\n{DETAILS}")
}

/// The command line as a description, for completions and man pages.
pub fn command() -> clap::Command {
    Cli::command()
}

/// Runs the command that `args` (the program's name first) ask for, prints its error if it has
/// one, and returns the exit status.
pub fn run(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let began = Instant::now();
    let args: Vec<OsString> = args.into_iter().collect();
    inherited::hear_of_children();
    // Where neither the kernel nor /proc does that, hardly anything can be started.
    let _: Result<_, _> = inherited::keep_files();
    if let Some(hidden) = container::hidden(&args) {
        log::LogArgs::default().install();
        return match hidden {
            Hidden::Keep(id) => of_command(container::keep(id)),
            Hidden::Monitor { keeper, flags } => {
                container::monitor(keeper, flags).unwrap_or_else(|error| report::error(&error))
            }
        }
        .into();
    }
    match parse(&args) {
        Ok(cli) => dispatch(cli, began).unwrap_or_else(|error| report::error(&error)).into(),
        Err(error) => {
            let name = named(&args);
            match report::usage(&error, name) {
                // A container's own status may be 2.
                Exit::Config if name.is_some_and(is_about_containers) => Exit::Failed.into(),
                exit => exit.into(),
            }
        }
    }
}

/// What a command line asks for. Lines of flags alone, and of the commands that start something in a container,
/// are read without describing all commands, which would take longer than reading them; whatever else is said
/// about them, the whole description says.
fn parse(args: &[OsString]) -> Result<Cli, clap::Error> {
    parse_part(args).map_or_else(|| parse_whole(args), Ok)
}

fn parse_part(args: &[OsString]) -> Option<Cli> {
    let [_, rest @ ..] = args else { return None };
    let first = rest.first()?.as_encoded_bytes();
    if first.starts_with(b"-") {
        let flags = Flags::try_parse_from(args).ok()?;
        return Some(Cli { command: None, flags });
    }
    let (command, log) = match first {
        b"run" => {
            let (line, log) = parse_alone(rest, clap::Command::new("run").disable_help_flag(true))?;
            (Command::Run(line), log)
        }
        b"exec" => {
            let (args, log) = match container::ExecArgs::without_flags(rest.get(1..)?) {
                Some(args) => (args, log::LogArgs::default()),
                None => parse_alone(rest, clap::Command::new("exec"))?,
            };
            (Command::Container(container::Command::Exec(Box::new(args))), log)
        }
        _ => return None,
    };
    Some(Cli {
        command: Some(command),
        flags: Flags { boot: PartialConfig::default().into(), log },
    })
}

/// The arguments of a command, and what may be said with all of them; nothing if there is more to say.
fn parse_alone<T: Args>(words: &[OsString], command: clap::Command) -> Option<(T, log::LogArgs)> {
    let command = T::augment_args(log::LogArgs::augment_args(command));
    let mut matches = command.try_get_matches_from(words).ok()?;
    let log = log::LogArgs::from_arg_matches_mut(&mut matches).ok()?;
    Some((T::from_arg_matches_mut(&mut matches).ok()?, log))
}

fn parse_whole(args: &[OsString]) -> Result<Cli, clap::Error> {
    let mut matches = command().try_get_matches_from(args)?;
    Cli::from_arg_matches_mut(&mut matches)
}

/// The command that a command line names.
fn named(args: &[OsString]) -> Option<&str> {
    let name = args.get(1)?.to_str()?;
    command().find_subcommand(name).map(|_| name)
}

/// Whether a command is about images or containers.
fn is_about_containers(name: &str) -> bool {
    name != "doctor"
}

fn dispatch(cli: Cli, began: Instant) -> anyhow::Result<Exit> {
    let Flags { boot, log } = cli.flags;
    log.install();
    match cli.command {
        Some(Command::Doctor(args)) => doctor::run(&args),
        Some(Command::Run(line)) => {
            Ok(of_command(container::run(*line.options, Moment::of(began))))
        }
        Some(Command::Container(command)) => Ok(of_command(command.run())),
        Some(Command::Pull(args)) => Ok(of_command(images::pull(args))),
        Some(Command::Images(args)) => Ok(of_command(images::list(&args))),
        Some(Command::Rmi(args)) => Ok(of_command(images::remove(&args))),
        Some(Command::System(args)) => Ok(of_command(system::run(&args))),
        Some(Command::Bench(args)) => Ok(of_command(bench::run("bench", &args))),
        Some(Command::Contrast(args)) => Ok(of_command(bench::run("contrast", &args))),
        None => boot::run(boot, Moment::of(began)),
    }
}

/// How a command about images or containers ends. Their users tell our failures from a container's own by
/// one status.
fn of_command(result: anyhow::Result<Exit>) -> Exit {
    const SIGPIPE: u8 = 13;
    result.unwrap_or_else(|error| {
        if error.is::<output::Unread>() {
            return Exit::Signal(SIGPIPE);
        }
        report::error(&error);
        Exit::Failed
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn command_line_is_well_formed() {
        command().debug_assert();
    }

    #[test]
    fn lines_read_in_part_mean_what_the_whole_description_says() {
        let parsed = |parse: fn(&[OsString]) -> Result<Cli, clap::Error>, line: &str| {
            let args: Vec<_> = line.split(' ').map(OsString::from).collect();
            parse(&args).map(|cli| format!("{cli:?}")).map_err(|error| error.to_string())
        };
        let lines = [
            "vmm --kernel vmlinux --memory 1G --disk path=a --log-level debug",
            "vmm --kernel vmlinux run",
            "vmm --memory 1X",
            "vmm --nosuch",
            "vmm --version",
            "vmm --help",
            "vmm -- run",
            "vmm run image",
            "vmm run -it --rm -e A=1 --name one image sh -c 'x --help' -- -y",
            "vmm run --log-level debug image true",
            "vmm run image --log-level debug",
            "vmm run --memory 1X image",
            "vmm run --help",
            "vmm run -h name image",
            "vmm run",
            "vmm --log-level debug run image",
            "vmm exec -it --user 1 one ls -l",
            "vmm exec one --log-level debug",
            "vmm exec --log-level debug one ls",
            "vmm exec one --help",
            "vmm exec one true",
            "vmm exec one -- ls -- -l",
            "vmm exec -- one ls",
            "vmm exec -  ls",
            "vmm run image --help",
            "vmm run image --rm",
            "vmm exec one",
            "vmm exec -h",
            "vmm doctor",
            "vmm",
        ];
        for line in lines {
            assert_eq!(parsed(parse, line), parsed(parse_whole, line), "{line}");
        }
    }

    /// As with docker, flags behind the image, and behind the container of exec, are not ours.
    #[test]
    fn words_behind_the_image_belong_to_the_command() {
        let words = |line: &str| {
            let args: Vec<_> = line.split(' ').map(OsString::from).collect();
            let of = |cli: Cli| match cli.command {
                Some(Command::Run(line)) => (line.options.rm, line.options.words),
                Some(Command::Container(container::Command::Exec(args))) => (false, args.words),
                other => panic!("{other:?}"),
            };
            let (part, whole) = (parse(&args).map(of), parse_whole(&args).map(of));
            let part = part.unwrap_or_else(|error| panic!("{line}: {error}"));
            assert_eq!(part, whole.unwrap_or_else(|error| panic!("{line}: {error}")));
            (part.0, part.1.join(" "))
        };
        let lines = [
            ("vmm run --rm image", true, "image"),
            ("vmm run image --rm", false, "image --rm"),
            ("vmm run image --help", false, "image --help"),
            ("vmm run image --log-level debug", false, "image --log-level debug"),
            ("vmm run image -- a -b", false, "image -- a -b"),
            ("vmm run --rm -- image -a", true, "image -a"),
            ("vmm run image ls -la --name x", false, "image ls -la --name x"),
            ("vmm exec one --user x", false, "one --user x"),
            ("vmm exec -u x one sh -c --help", false, "one sh -c --help"),
        ];
        for (line, rm, expected) in lines {
            assert_eq!(words(line), (rm, expected.to_owned()), "{line}");
        }
        let refused = |line: &str| {
            let args: Vec<_> = line.split(' ').map(OsString::from).collect();
            parse(&args).unwrap_err().kind()
        };
        assert_eq!(refused("vmm run --nosuch image"), clap::error::ErrorKind::UnknownArgument);
        assert_eq!(refused("vmm run --rm"), clap::error::ErrorKind::MissingRequiredArgument);
        assert_eq!(refused("vmm exec one"), clap::error::ErrorKind::TooFewValues);
    }

    #[test]
    fn commands_about_containers_are_told_from_others() {
        let is = |line: &str| {
            let args: Vec<_> = line.split(' ').map(OsString::from).collect();
            named(&args).is_some_and(is_about_containers)
        };
        assert!(is("vmm run --nosuch") && is("vmm exec") && is("vmm pull"));
        assert!(!is("vmm") && !is("vmm --run") && !is("vmm doctor --x") && !is("vmm nosuch"));
    }

    #[test]
    fn help_lists_every_exit_status() {
        let help = command().render_long_help().to_string();
        for exit in Exit::ALL {
            let row = format!("\n  {} ", exit.code());
            assert!(help.contains(&row), "{exit:?}");
        }
    }
}
