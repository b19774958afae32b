//! Handing out tests to hosts that run them: who is done gets the next few, so that all end together.

use std::collections::VecDeque;
use std::io::{self, Read};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};

/// Tests of one program in one turn: few, so that the last turn is short; not one, as the start of a program
/// takes as long as a quick test.
const TURN: usize = 3;

/// What is left to run: a line for each turn.
#[derive(Clone)]
pub(super) struct Stack(Arc<Mutex<VecDeque<String>>>);

impl Stack {
    /// A turn for each of `lines`: the name of a program and its arguments.
    pub(super) fn new(lines: impl IntoIterator<Item = String>) -> Self {
        let turns = lines.into_iter().map(|line| format!("{line}\n"));
        Self(Arc::new(Mutex::new(turns.collect())))
    }

    /// A hand that draws when it is told to, and once before that.
    pub(super) fn hand(&self) -> (Hand, Sender<()>) {
        let (sender, done) = channel();
        // The receiver is there.
        let _ = sender.send(());
        (Hand { stack: self.clone(), done, line: VecDeque::new() }, sender)
    }

    fn draw(&self) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).pop_front()
    }
}

/// The turns of `program` for its tests `names`.
pub(super) fn turns(program: &str, names: &[String]) -> impl Iterator<Item = String> {
    names.chunks(TURN).map(move |names| format!("{program} --exact {}", names.join(" ")))
}

/// What one host reads: a turn whenever it is done with the one before, until none is left.
pub(super) struct Hand {
    stack: Stack,
    done: Receiver<()>,
    line: VecDeque<u8>,
}

impl Read for Hand {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.line.is_empty() && self.done.recv().is_ok() {
            self.line.extend(self.stack.draw().unwrap_or_default().into_bytes());
        }
        self.line.read(buffer)
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader};

    use super::*;

    #[test]
    fn every_test_is_drawn_once_by_whoever_is_done() {
        let names = |count: usize| (0..count).map(|n| format!("m::t{n}")).collect::<Vec<_>>();
        let (many, few) = (names(7), names(1));
        let stack = Stack::new(turns("a", &many).chain(turns("b", &few)));
        let (slow, _unheard) = stack.hand();
        let (quick, done) = stack.hand();
        let mut lines = BufReader::new(slow).lines();
        assert_eq!(lines.next().unwrap().unwrap(), "a --exact m::t0 m::t1 m::t2");
        let mut lines = BufReader::new(quick).lines();
        assert_eq!(lines.next().unwrap().unwrap(), "a --exact m::t3 m::t4 m::t5");
        for line in ["a --exact m::t6", "b --exact m::t0"] {
            done.send(()).unwrap();
            assert_eq!(lines.next().unwrap().unwrap(), line);
        }
        done.send(()).unwrap();
        assert!(lines.next().is_none());
    }

    #[test]
    fn host_that_is_gone_draws_no_more() {
        let stack = Stack::new(["a t".to_owned(), "b t".to_owned()]);
        let (hand, done) = stack.hand();
        drop(done);
        let lines: Vec<_> = BufReader::new(hand).lines().map(Result::unwrap).collect();
        assert_eq!(lines, ["a t"]);
    }
}
