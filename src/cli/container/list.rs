//! `vmm ps` and `vmm inspect`.

use std::io::Write;
use std::time::Duration;

use clap::Args;
use serde_json::{Value, json};

use super::super::{Exit, report};
use super::{Format, containers, print_json};
use crate::cli::table::Table;
use crate::container::clock::Timestamp;
use crate::container::{Container, Status};

/// Characters of a command that fit a table.
const COMMAND: usize = 30;

#[derive(Debug, Args)]
pub(in super::super) struct PsArgs {
    /// Show those that have ended, too
    #[arg(short, long)]
    all: bool,

    /// Print identifiers only
    #[arg(short, long)]
    quiet: bool,

    /// Show identifiers and commands whole
    #[arg(long)]
    no_trunc: bool,

    /// Form of the list
    #[arg(long, value_name = "FORMAT", value_enum, default_value = "table")]
    format: Format,
}

#[derive(Debug, Args)]
pub(in super::super) struct InspectArgs {
    /// Containers by name or identifier
    #[arg(required = true, value_name = "CONTAINER")]
    containers: Vec<String>,
}

pub(in super::super) fn ps(args: &PsArgs) -> anyhow::Result<Exit> {
    let mut found = containers()?.list()?;
    found.retain(|(_, status)| args.all || !matches!(status, Status::Exited { .. }));
    // As docker has it, the newest first.
    found.reverse();
    if args.quiet {
        for (container, _) in &found {
            let id = &container.spec().id;
            writeln!(
                std::io::stdout(),
                "{}",
                if args.no_trunc { id.as_str() } else { id.short() }
            )?;
        }
        return Ok(Exit::Success);
    }
    if args.format == Format::Json {
        return print_json(&found.iter().map(|(c, status)| described(c, status)).collect());
    }
    let mut table =
        Table::new(["CONTAINER ID", "IMAGE", "COMMAND", "CREATED", "STATUS", "PORTS", "NAMES"]);
    for (container, status) in &found {
        let spec = container.spec();
        let command = spec.start.args.join(" ");
        let ports: Vec<_> = spec.publish.iter().map(ToString::to_string).collect();
        table.row([
            if args.no_trunc { spec.id.as_str() } else { spec.id.short() }.to_owned(),
            spec.sources.image.clone(),
            if args.no_trunc { command } else { cut(&command) },
            format!("{} ago", rough(spec.created.elapsed())),
            summary(status),
            ports.join(", "),
            spec.name.as_str().to_owned(),
        ]);
    }
    table.print()?;
    Ok(Exit::Success)
}

pub(in super::super) fn inspect(args: &InspectArgs) -> anyhow::Result<Exit> {
    let containers = containers()?;
    let (mut found, mut exit) = (vec![], Exit::Success);
    for key in &args.containers {
        match containers.find(key) {
            Ok((container, status)) => found.push(described(&container, &status)),
            Err(error) => {
                report::error(&error.into());
                exit = Exit::Command(1);
            }
        }
    }
    print_json(&found)?;
    Ok(exit)
}

/// All there is to know, in the words of the files it is kept in.
fn described(container: &Container, status: &Status) -> Value {
    let spec = container.spec();
    json!({
        "id": spec.id,
        "name": spec.name,
        "created": spec.created.to_string(),
        "status": status,
        "summary": summary(status),
        "log": container.file(crate::container::log::LOG),
        "spec": spec,
    })
}

fn summary(status: &Status) -> String {
    let ago = |time: &Timestamp| rough(time.elapsed());
    match status {
        Status::Created => "Created".to_owned(),
        Status::Running { started, .. } => format!("Up {}", ago(started)),
        Status::Exited { finished, code, .. } => format!("Exited ({code}) {} ago", ago(finished)),
    }
}

/// A duration in its largest unit.
fn rough(time: Duration) -> String {
    let seconds = time.as_secs();
    let units = [(86_400, "day"), (3600, "hour"), (60, "minute"), (1, "second")];
    let unit = units.into_iter().find(|(len, _)| seconds >= *len);
    match unit.and_then(|(len, name)| seconds.checked_div(len).map(|count| (count, name))) {
        Some((1, name)) => format!("1 {name}"),
        Some((count, name)) => format!("{count} {name}s"),
        None => "less than a second".to_owned(),
    }
}

fn cut(command: &str) -> String {
    if command.chars().count() <= COMMAND {
        return command.to_owned();
    }
    command.chars().take(COMMAND).chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_rough() {
        let text = |seconds| rough(Duration::from_secs(seconds));
        assert_eq!(text(0), "less than a second");
        assert_eq!(text(1), "1 second");
        assert_eq!(text(119), "1 minute");
        assert_eq!(text(7200), "2 hours");
        assert_eq!(text(1_000_000), "11 days");
    }

    #[test]
    fn long_commands_are_cut_between_characters() {
        assert_eq!(cut("short"), "short");
        assert_eq!(cut(&"ü".repeat(40)), format!("{}…", "ü".repeat(30)));
    }
}
