//! Looks at where it runs, and says what it sees: the same program inside a container and inside a virtual
//! machine, so that what differs is the wall around it.
//!
//! - [`facts`]: what can be seen, and what is meant to be limited.
//! - [`calls`]: which system calls get through.
//! - [`escapes`]: what would lead out, tried so far that it is known and nothing happens.
//! - [`measure`], [`latency`], [`storage`], [`network`]: what computing, system calls, a file and a stream cost here.
//! - [`hostile`]: what becomes of who takes all there is, up to a bound.
//! - [`work`]: a little of everything that programs do, for who counts system calls from outside.
//!
//! What it says is JSON. It changes nothing that outlives it, and ends soon whatever it meets.

#![cfg_attr(not(test), deny(clippy::indexing_slicing, clippy::as_conversions))]

mod calls;
mod escapes;
mod facts;
mod hostile;
mod latency;
mod measure;
mod network;
mod raw;
mod storage;
mod work;

use std::io::Write;
use std::process::ExitCode;

use serde_json::{Map, Value};

const USAGE: &str = "usage: vmm-probe WORD...

Prints an object with a member for each word:

  facts            What can be seen here
  syscalls         Which system calls get through, each tried with arguments that do nothing
  escapes          What would lead out of a container, tried without doing it
  cpu              Nanoseconds that fixed amounts of work take
  syscall-latency  Nanoseconds that the kernel's shortest services take
  io               Rates of a file in the working directory
  loopback         Rate and time there and back of a stream to itself
  stream=IP:PORT,TOKEN
                   The same to `vmm bench io`, which serves there
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
    let name = |word: &str| word.split('=').next().unwrap_or(word).to_owned();
    let known = words.iter().map(|word| Some((name(word), task(word)?)));
    let tasks: Vec<(String, Task)> = known.collect::<Option<_>>()?;
    Some(tasks.into_iter().map(|(word, task)| (word, task())).collect())
}

type Task = Box<dyn FnOnce() -> Value>;

fn task(word: &str) -> Option<Task> {
    if let Some(place) = word.strip_prefix("stream=") {
        let (address, token) = place.split_once(',')?;
        let (address, token) = (address.parse().ok()?, token.to_owned());
        return Some(Box::new(move || network::to(address, &token)));
    }
    let task: fn() -> Value = match word {
        "facts" => facts::all,
        "syscalls" => calls::all,
        "escapes" => escapes::all,
        "cpu" => measure::cpu,
        "syscall-latency" => latency::all,
        "io" => storage::all,
        "loopback" => network::loopback,
        "memory-hog" => hostile::memory,
        "fork-bomb" => hostile::processes,
        "work" => work::all,
        _ => return None,
    };
    Some(Box::new(task))
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
        let known = words.filter(|word| task(&word.replace("IP:PORT", "127.0.0.1:1")).is_some());
        assert_eq!(known.count(), 11);
        assert!(task("stream=nowhere").is_none());
    }
}
