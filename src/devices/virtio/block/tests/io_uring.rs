use super::Patient;
use crate::config::Engine;

const ENGINE: Engine = Engine::IoUring;

#[path = "cases.rs"]
mod cases;
