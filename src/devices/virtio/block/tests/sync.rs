use super::Patient;
use crate::config::Engine;

const ENGINE: Engine = Engine::Sync;

#[path = "cases.rs"]
#[expect(clippy::duplicate_mod, reason = "the same cases with another engine")]
mod cases;
