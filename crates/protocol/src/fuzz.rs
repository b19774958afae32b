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

    use super::protocol;
    use crate::{Kind, Notice, Order, Reply, Request, push_data, push_message};

    #[test]
    fn corpus_is_survived() {
        let corpus = include_str!("../../../fuzz/corpus/protocol.hex");
        for line in corpus.lines() {
            let digits = line.as_bytes().chunks_exact(2);
            let bytes: Vec<u8> = digits
                .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
                .collect();
            assert!(!bytes.is_empty());
            protocol(&bytes);
        }
        assert!(corpus.lines().count() > 4);
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
    }
}
