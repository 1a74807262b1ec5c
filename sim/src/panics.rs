//! Panics of the code under test: tasks keep theirs to themselves, the simulation does not.

use std::cell::Cell;
use std::sync::Once;

thread_local! {
    static COUNT: Cell<usize> = const { Cell::new(0) };
}
static HOOK: Once = Once::new();

/// Sees the panics of this thread from its beginning on.
#[derive(Debug)]
pub(crate) struct Watch {
    before: usize,
}

impl Watch {
    pub(crate) fn begin() -> Self {
        HOOK.call_once(|| {
            let usual = std::panic::take_hook();
            std::panic::set_hook(Box::new(move |info| {
                COUNT.with(|count| count.set(count.get() + 1));
                usual(info);
            }));
        });
        Self { before: COUNT.get() }
    }

    /// Panics if something on this thread did.
    pub(crate) fn check(&self) {
        assert_eq!(
            COUNT.get(),
            self.before,
            "a simulated host panicked; what it said is above"
        );
    }
}
