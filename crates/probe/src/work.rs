//! A little of everything that programs do: what a kernel, the host's or the guest's, is asked for by it.
//!
//! Who counts that from outside learns by two lines when it begins and when it has ended, and has time to look.

use std::fs::{self, File};
use std::io::{self, Read, Seek, Write};
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{WaitOptions, waitpid};
use rustix::rand::{GetRandomFlags, getrandom};
use rustix::system::uname;
use serde_json::{Value, json};

use crate::raw;

/// Time to look before it begins, and after it has ended.
const BEFORE: Duration = Duration::from_millis(2500);
const AFTER: Duration = Duration::from_millis(500);
/// How often everything is done.
const ROUNDS: u32 = 20;
/// Bytes of the file.
const BYTES: usize = 64 << 10;

/// A piece of work.
type Task = fn() -> io::Result<()>;

/// Everything, and how much of it could be done.
pub(crate) fn all() -> Value {
    say("ready");
    thread::sleep(BEFORE);
    let began = Instant::now();
    let tasks: [(&str, Task); 6] = [
        ("names", names),
        ("file", file),
        ("process", process),
        ("thread", thread),
        ("socket", socket),
        ("kernel", kernel),
    ];
    let done = |task: fn() -> io::Result<()>| (0..ROUNDS).filter(|_| task().is_ok()).count();
    let counts: Value =
        tasks.iter().map(|(name, task)| ((*name).to_owned(), json!(done(*task)))).collect();
    let took = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
    say("done");
    thread::sleep(AFTER);
    json!({ "rounds": ROUNDS, "done": counts, "microseconds": took })
}

/// Nobody hears it where there is nobody to count.
fn say(word: &str) {
    let mut output = io::stdout();
    let _ = output.write_all(format!("{word}\n").as_bytes()).and_then(|()| output.flush());
}

fn names() -> io::Result<()> {
    for entry in fs::read_dir("/")? {
        entry?.metadata()?;
    }
    fs::read("/proc/self/status").map(drop)
}

fn file() -> io::Result<()> {
    let name = format!("probe.{}", std::process::id());
    let mut file = File::options().read(true).write(true).create_new(true).open(&name)?;
    fs::remove_file(&name)?;
    let mut data = vec![0x5a; BYTES];
    file.write_all(&data)?;
    file.sync_all()?;
    file.rewind()?;
    file.read_exact(&mut data)
}

fn process() -> io::Result<()> {
    let (reading, writing) = pipe_with(PipeFlags::CLOEXEC)?;
    let pid = raw::process(|| {
        // Who reads it learns when it is missing.
        let _ = rustix::io::write(&writing, b"x");
    })?;
    rustix::io::read(&reading, &mut [0])?;
    waitpid(Some(pid), WaitOptions::empty())?;
    Ok(())
}

fn thread() -> io::Result<()> {
    let thread = thread::Builder::new().spawn(thread::yield_now)?;
    thread.join().map_err(|_| io::ErrorKind::Other.into())
}

fn socket() -> io::Result<()> {
    let (mut one, mut other) = UnixStream::pair()?;
    one.write_all(b"x")?;
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut [PollFd::new(&other, PollFlags::IN)], Some(&now))?;
    other.read_exact(&mut [0])
}

fn kernel() -> io::Result<()> {
    uname();
    getrandom(&mut [0; 16], GetRandomFlags::empty())?;
    thread::sleep(Duration::from_micros(50));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_is_done_where_it_may_be() {
        let directory = tempfile::tempdir().unwrap();
        std::env::set_current_dir(directory.path()).unwrap();
        for task in [names, file, process, thread, socket, kernel] {
            task().unwrap();
        }
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
    }
}
