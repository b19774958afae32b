//! Containers: what they do is what runc and crun do, and what becomes of them is as docker has it.
//!
//! - [`differential`] runs [`table`], [`execs`], [`signals`] and [`terminals`] in all three, and
//!   [`differences`] says what is another and why.
//! - [`runtime`] is one container of any of the three, [`bundle`] what it is made from.
//! - The other modules are about what runc has no notion of.

mod attach;
mod bundle;
mod contrast;
mod copy;
mod differences;
mod differential;
mod execs;
mod failures;
mod figures;
mod flags;
mod groups;
mod hostile;
mod isolation;
mod kills;
mod lifecycle;
mod output;
mod pages;
mod pty;
#[path = "../../support/registry.rs"]
mod registry;
mod rules;
mod runtime;
mod services;
mod signals;
mod sources;
mod table;
mod terminals;
mod timing;
mod users;
mod world;

pub use world::World;
