//! `vmm ps` and `vmm inspect`.

use std::net::SocketAddr;

use clap::Args;
use serde_json::{Value, json};

use super::super::{Exit, report};
use super::{Format, containers, print_json};
use crate::cli::output::print;
use crate::cli::table::{ago, duration, table};
use crate::config::{Protocol, Publish};
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
        let ids = found.iter().map(|(container, _)| &container.spec().id);
        let shown = ids.map(|id| if args.no_trunc { id.as_str() } else { id.short() });
        print(&shown.map(|id| format!("{id}\n")).collect::<String>())?;
        return Ok(Exit::Success);
    }
    if args.format == Format::Json {
        return print_json(&found.iter().map(|(c, status)| described(c, status)).collect());
    }
    let head = ["CONTAINER ID", "IMAGE", "COMMAND", "CREATED", "STATUS", "PORTS", "NAMES"];
    let rows: Vec<_> = found.iter().map(|(c, status)| row(c, status, args.no_trunc)).collect();
    print(&table(head, &rows))?;
    Ok(Exit::Success)
}

fn row(container: &Container, status: &Status, whole: bool) -> [String; 7] {
    let spec = container.spec();
    let command = spec.start.args.join(" ");
    let ended = matches!(status, Status::Exited { .. });
    let ports: Vec<_> = spec.publish.iter().filter(|_| !ended).map(port).collect();
    [
        if whole { spec.id.as_str() } else { spec.id.short() }.to_owned(),
        spec.sources.image.clone(),
        if whole { command } else { cut(&command) },
        ago(spec.created.elapsed().as_secs()),
        summary(status),
        ports.join(", "),
        spec.name.as_str().to_owned(),
    ]
}

/// A published port as docker shows it: `0.0.0.0:8080->80/tcp`.
fn port(publish: &Publish) -> String {
    let host = SocketAddr::new(publish.address, publish.host_port.get());
    let protocol = match publish.protocol {
        Protocol::Tcp => "tcp",
        Protocol::Udp => "udp",
    };
    format!("{host}->{}/{protocol}", publish.guest_port)
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
    let seconds = |time: &Timestamp| time.elapsed().as_secs();
    match status {
        Status::Created => "Created".to_owned(),
        Status::Running { started, .. } => format!("Up {}", duration(seconds(started))),
        Status::Exited { finished, code, .. } => {
            format!("Exited ({code}) {}", ago(seconds(finished)))
        }
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
    fn cells_are_as_docker_has_them() {
        assert_eq!(port(&"udp:[::1]:53:5353".parse().expect("port")), "[::1]:53->5353/udp");
        assert_eq!(cut("short"), "short");
        assert_eq!(cut(&"ü".repeat(40)), format!("{}…", "ü".repeat(30)));
    }
}
