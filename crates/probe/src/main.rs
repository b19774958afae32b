//! Looks at where it runs, and says what it sees: the same program inside a container and inside a virtual
//! machine, so that what differs is the wall around it.
//!
//! - [`facts`]: what can be seen, and what is meant to be limited.
//! - [`calls`]: which system calls get through.
//! - [`escapes`]: what would lead out, tried so far that it is known and nothing happens.
//! - [`measure`]: what a system call, computing and a file cost here.
//! - [`hostile`]: what becomes of who takes all there is, up to a bound.
//! - [`work`]: a little of everything that programs do, for who counts system calls from outside.
//!
//! What it says is JSON. It changes nothing that outlives it, and ends soon whatever it meets.

#![cfg_attr(not(test), deny(clippy::indexing_slicing, clippy::as_conversions))]

mod calls;
mod escapes;
mod facts;
mod hostile;
mod measure;
mod raw;
mod work;

use std::io::Write;
use std::process::ExitCode;

use serde_json::{Map, Value, json};

const USAGE: &str = "usage: vmm-probe WORD...

Prints an object with a member for each word:

  facts            What can be seen here
  syscalls         Which system calls get through, each tried with arguments that do nothing
  escapes          What would lead out of a container, tried without doing it
  cpu              Nanoseconds that a fixed computation takes
  syscall-latency  Nanoseconds that the shortest system call takes
  io               Nanoseconds that writing and reading a file in the working directory takes
  memory-hog       What becomes of a process that takes memory until it is stopped, at 768 MiB by itself
  fork-bomb        How many processes can be made at once, 1000 at most
  work             Prints `ready`, waits, does a little of everything, prints `done`
";

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    if words.is_empty() || words.iter().any(|word| word == "--help") {
        print!("{USAGE}");
        return if words.is_empty() { ExitCode::from(2) } else { ExitCode::SUCCESS };
    }
    let Some(answers) = answer(&words) else {
        eprintln!("vmm-probe: unknown word; see --help");
        return ExitCode::from(2);
    };
    let mut text = Value::Object(answers).to_string();
    text.push('\n');
    match std::io::stdout().write_all(text.as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

/// What there is to say to each word; nothing if one is unknown.
fn answer(words: &[String]) -> Option<Map<String, Value>> {
    let known = words.iter().map(|word| Some((word.clone(), task(word)?)));
    let tasks: Vec<(String, fn() -> Value)> = known.collect::<Option<_>>()?;
    Some(tasks.into_iter().map(|(word, task)| (word, task())).collect())
}

fn task(word: &str) -> Option<fn() -> Value> {
    Some(match word {
        "facts" => facts::all,
        "syscalls" => calls::all,
        "escapes" => escapes::all,
        "cpu" => || json!(measure::cpu()),
        "syscall-latency" => || json!(measure::syscall()),
        "io" => || json!(measure::io()),
        "memory-hog" => hostile::memory,
        "fork-bomb" => hostile::processes,
        "work" => work::all,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_unknown_word_is_enough_to_do_nothing() {
        assert!(answer(&["facts".into(), "frob".into()]).is_none());
    }

    #[test]
    fn every_word_of_the_usage_is_known() {
        let words = USAGE.lines().skip(3).filter_map(|line| line.split_whitespace().next());
        assert_eq!(words.filter(|word| task(word).is_some()).count(), 9);
    }
}
