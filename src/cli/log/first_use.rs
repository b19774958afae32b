//! A subscriber that is made when the first message comes: the maker of lines fills 32 KiB before it
//! has one to write, and most machines never say anything.

use std::sync::OnceLock;

use tracing::span::{Attributes, Id, Record};
use tracing::{Dispatch, Event, Metadata, Subscriber};
use tracing_subscriber::filter::LevelFilter;

/// Hands everything of `level` and above to what `make` makes.
pub(super) struct MadeAtFirstUse<F> {
    level: LevelFilter,
    make: F,
    made: OnceLock<Dispatch>,
}

impl<F: Fn() -> Dispatch> MadeAtFirstUse<F> {
    pub(super) fn new(level: LevelFilter, make: F) -> Self {
        Self { level, make, made: OnceLock::new() }
    }

    fn made(&self) -> &Dispatch {
        self.made.get_or_init(&self.make)
    }
}

impl<F: Fn() -> Dispatch + Send + Sync + 'static> Subscriber for MadeAtFirstUse<F> {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= self.level
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(self.level)
    }

    fn new_span(&self, span: &Attributes<'_>) -> Id {
        self.made().new_span(span)
    }

    fn record(&self, span: &Id, values: &Record<'_>) {
        self.made().record(span, values);
    }

    fn record_follows_from(&self, span: &Id, follows: &Id) {
        self.made().record_follows_from(span, follows);
    }

    fn event(&self, event: &Event<'_>) {
        self.made().event(event);
    }

    fn enter(&self, span: &Id) {
        self.made().enter(span);
    }

    fn exit(&self, span: &Id) {
        self.made().exit(span);
    }

    fn clone_span(&self, id: &Id) -> Id {
        self.made().clone_span(id)
    }

    fn try_close(&self, id: Id) -> bool {
        self.made().try_close(id)
    }
}
