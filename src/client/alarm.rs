//! A timer that is moved with every request, and hardly ever rings.

use std::pin::Pin;

use tokio::time::{Instant, Sleep};

/// Rings at a time that may be moved. Putting it off costs nothing: the runtime's timer stays where it is and is set again when
/// it rings too early.
#[derive(Debug)]
pub(super) struct Alarm {
    timer: Pin<Box<Sleep>>,
}

impl Alarm {
    /// Must be called within a tokio runtime.
    pub(super) fn new() -> Self {
        Self { timer: Box::pin(tokio::time::sleep_until(Instant::now())) }
    }

    /// Ends at a time, not before. Cancel safe.
    pub(super) async fn at(&mut self, at: Instant) {
        if self.timer.is_elapsed() || at < self.timer.deadline() {
            self.timer.as_mut().reset(at);
        }
        self.timer.as_mut().await;
        while Instant::now() < at {
            self.timer.as_mut().reset(at);
            self.timer.as_mut().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn it_rings_when_it_was_last_set_to_and_not_before() {
        let begin = Instant::now();
        let in_ms = |ms| begin + Duration::from_millis(ms);
        let mut alarm = Alarm::new();
        // Set and given up, as by who waits for something else as well; then earlier, later, and to what has passed.
        assert!(tokio::time::timeout(Duration::from_millis(1), alarm.at(in_ms(60_000))).await.is_err());
        for at in [20, 60, 40, 61] {
            let rings = tokio::time::timeout(Duration::from_secs(30), alarm.at(in_ms(at)));
            rings.await.expect("it was set to an earlier time");
            assert!(Instant::now() >= in_ms(at), "{at}");
        }
        // Whether it is still given up before it rings does not matter.
        let _ = tokio::time::timeout(Duration::from_millis(1), alarm.at(in_ms(80))).await;
        alarm.at(in_ms(120)).await;
        assert!(Instant::now() >= in_ms(120), "it was put off");
    }
}
