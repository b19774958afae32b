//! What the program says to the process that does a part of its work: one task, with open files.

use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags,
};
use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::fetch::Fetched;
use crate::oci::{MAX_LAYERS, Platform};
use crate::source::registry::Credentials;

/// Bytes of a task, at most.
const MAX_TASK: u32 = 1 << 20;
/// Open files that go with a task: the layers and what is made of them.
const MAX_FILES: usize = MAX_LAYERS + 1;

/// A part of the work, done by a process of its own.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Task {
    /// Who has asked; the work ends with it.
    pub(super) parent: i32,
    pub(super) what: Work,
    /// Whether standard error shows bars (`true`), lines, or nothing (`None`).
    pub(super) bars: Option<bool>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Work {
    /// Bring the blobs of an image into the store below `data`.
    Fetch { data: PathBuf, from: From, platform: Platform },
    /// Make a file system of layers with these digests. The first file that comes along is written,
    /// the others are the layers.
    Convert { diff_ids: Vec<Digest> },
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) enum From {
    /// A reference to a file or directory.
    Local(String),
    Registry {
        name: String,
        plain_http: bool,
        credentials: Option<Credentials>,
    },
}

/// What comes back, a line each.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Reply {
    /// What is going on, for the message about a crash.
    Doing(String),
    Fetched(Fetched),
    /// Bytes of the file system.
    Converted(u64),
    Failed {
        what: String,
        hint: Option<String>,
    },
}

pub(super) fn send(mut to: &UnixStream, task: &Task, files: &[BorrowedFd<'_>]) -> io::Result<()> {
    let body = serde_json::to_vec(task)?;
    let length = u32::try_from(body.len()).ok().filter(|length| *length <= MAX_TASK);
    let length = length.ok_or(io::ErrorKind::InvalidInput)?.to_le_bytes();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FILES))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !files.is_empty() && !control.push(SendAncillaryMessage::ScmRights(files)) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    rustix::net::sendmsg(to, &[IoSlice::new(&length)], &mut control, SendFlags::NOSIGNAL)?;
    to.write_all(&body)
}

pub(super) fn receive(mut from: &UnixStream) -> io::Result<(Task, Vec<OwnedFd>)> {
    let mut length = [0; 4];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FILES))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut parts = [IoSliceMut::new(&mut length)];
    let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::WAITALL;
    let received = rustix::net::recvmsg(from, &mut parts, &mut control, flags)?;
    if received.bytes != length.len() {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let files = control.drain().flat_map(|message| match message {
        RecvAncillaryMessage::ScmRights(files) => files.collect(),
        _ => Vec::new(),
    });
    let files = files.collect();
    let length = u32::from_le_bytes(length);
    if length > MAX_TASK {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut body = Vec::new();
    Read::by_ref(&mut from).take(length.into()).read_to_end(&mut body)?;
    Ok((serde_json::from_slice(&body)?, files))
}
