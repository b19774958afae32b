//! What a virtual machine's host and the agent in its guest say to each other.
//!
//! Both speak over stream sockets (virtio-vsock) in [`Frame`]s: messages in JSON, and the bytes of
//! standard streams as they are. Each side takes the other for hostile: what it reads is bounded
//! and checked, and the first wrong frame ends the connection.
//!
//! - The *control connection* is the agent's first deed: it connects to [`CONTROL_PORT`] of the host
//!   and says [`Notice::Hello`]. The host answers [`Order::Setup`]; the agent makes the container's
//!   surroundings and says [`Notice::Ready`] or [`Notice::Failed`]. Later orders are
//!   [`Order::Stats`], [`Order::Processes`] and [`Order::Shutdown`].
//! - *Sessions*: the host connects to [`SESSION_PORT`] of the guest, once for each process or copy.
//!   Its first message is [`Request::Start`], [`Request::Exec`], [`Request::Stat`], [`Request::CopyOut`] or
//!   [`Request::CopyIn`].
//!
//! A session of a process: the agent answers [`Reply::Started`] or [`Reply::Refused`]. Then
//! [`Kind::Stdout`] and [`Kind::Stderr`] come from the guest, [`Kind::Stdin`] goes to it, and
//! [`Reply::Exited`] is the last frame, behind all the output. The host may send as many bytes of
//! `Stdin` as it has credit: [`INITIAL_CREDIT`] and what [`Reply::Credit`] adds. So a process that
//! never reads holds up neither signals nor sizes. Output has no credit: who cannot write to
//! the connection stops reading the pipe behind it.
//!
//! A copy: `CopyOut` is answered by [`Reply::Found`], a tar stream as `Stdout`, and
//! [`Reply::Copied`]; `CopyIn` by [`Reply::Credit`], then takes a tar stream as `Stdin` that ends
//! with [`Request::StdinEof`], and says [`Reply::Copied`]. [`Reply::Refused`] ends either at any time.
//! Both ends of the tar stream are in [`archive`].

#![cfg_attr(not(test), deny(clippy::indexing_slicing, clippy::as_conversions))]

pub mod archive;
mod frame;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod message;

pub use frame::{
    Frame, FrameError, FrameReader, HEADER_LEN, Kind, MAX_DATA, MAX_MESSAGE, push_data,
    push_message,
};
pub use message::{
    Address, CAPABILITIES, DEFAULT_CAPABILITIES, Exit, FileKind, Further, Network, Notice, Order,
    PathStat, Process, Refusal, Reply, Request, Rlimit, Role, Setup, Stamp, Start, Stats, Status,
    TerminalSize, Tmpfs, printable,
};

/// Version of everything in this crate. The agent comes with the host's program, so that another one
/// is a mistake and is refused.
pub const VERSION: u32 = 1;

/// Port of the host (CID 2) at which the agent says hello.
pub const CONTROL_PORT: u32 = 1024;

/// Port of the guest at which the agent takes sessions.
pub const SESSION_PORT: u32 = 1025;

/// Bytes of [`Kind::Stdin`] that the host may send before it gets any [`Reply::Credit`].
pub const INITIAL_CREDIT: u32 = 64 << 10;
