//! What a fuzzer sends to either end of a connection.

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::{Frame, FrameReader, Notice, Order, Reply, Request, push_message};

/// Reads `data`, in pieces of the size its first byte says, as either side reads the other's frames;
/// what is a message must survive being sent again.
///
/// # Panics
/// It does not.
pub fn protocol(data: &[u8]) {
    let Some((size, data)) = data.split_first() else { return };
    let mut reader = FrameReader::new();
    for piece in data.chunks(usize::from(*size).max(1)) {
        reader.feed(piece);
        loop {
            match reader.next() {
                Ok(Some(frame)) => {
                    check::<Notice>(&frame);
                    check::<Order>(&frame);
                    check::<Reply>(&frame);
                    check::<Request>(&frame);
                }
                Ok(None) => break,
                Err(_) => return,
            }
        }
    }
}

/// Reads `data` as the archive of a copy; an entry that was read must be the same when it is sent on.
///
/// # Panics
/// It does not.
pub fn archive(data: &[u8]) {
    crate::archive::read_and_write(data);
}

fn check<M: DeserializeOwned + Serialize + PartialEq>(frame: &Frame<'_>) {
    let Ok(message) = frame.message::<M>() else { return };
    let mut bytes = vec![];
    if push_message(&mut bytes, &message).is_err() {
        // What is written with more characters than it was read from may be too long.
        return;
    }
    let mut reader = FrameReader::new();
    reader.feed(&bytes);
    let again = reader.next().ok().flatten().and_then(|frame| frame.message::<M>().ok());
    assert!(again == Some(message), "a message that was read can be sent");
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{archive, protocol};
    use crate::{Kind, Notice, Order, Reply, Request, push_data, push_message};

    /// The lines of a corpus, which are bytes in hexadecimal digits.
    fn lines(corpus: &str) -> Vec<Vec<u8>> {
        let line = |line: &str| {
            let pairs = line.as_bytes().chunks_exact(2);
            let byte = |pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
            pairs.map(byte).collect::<Vec<u8>>()
        };
        corpus.lines().map(line).collect()
    }

    #[test]
    fn corpus_is_survived() {
        let messages = lines(include_str!("../../../fuzz/corpus/protocol.hex"));
        assert!(messages.len() > 4);
        messages.iter().for_each(|bytes| protocol(bytes));
        let archives = lines(include_str!("../../../fuzz/corpus/archive.hex"));
        assert!(archives.len() > 4);
        archives.iter().for_each(|bytes| archive(bytes));
    }

    proptest! {
        /// V12: what either side may be sent, damaged anywhere.
        #[test]
        fn damaged_messages_are_refused_or_understood(at in any::<usize>(), with: u8, size: u8) {
            let mut bytes = vec![size];
            push_message(&mut bytes, &Notice::OomKilled { count: 3 }).unwrap();
            push_message(&mut bytes, &Order::Setup(Box::default())).unwrap();
            push_data(&mut bytes, Kind::Stdout, b"output");
            push_message(&mut bytes, &Request::Start(Box::default())).unwrap();
            push_message(&mut bytes, &Reply::Credit(7)).unwrap();
            let at = at % bytes.len();
            bytes[at] = with;
            protocol(&bytes);
        }

        /// F3: archives, damaged anywhere.
        #[test]
        fn damaged_archives_are_refused_or_understood(at in any::<usize>(), with: u8, which: usize) {
            let mut archives = lines(include_str!("../../../fuzz/corpus/archive.hex"));
            let which = which % archives.len();
            let bytes = &mut archives[which];
            let at = at % bytes.len();
            bytes[at] = with;
            archive(bytes);
        }
    }
}
