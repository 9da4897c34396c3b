//! A clock's alarm in microseconds: the runtime's own timers are exact to a millisecond, and an edit that is made too
//! late is measured as a slow delivery.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};
use tokio::io::unix::AsyncFd;

/// One alarm, for one task.
pub struct Alarm(AsyncFd<OwnedFd>);

impl Alarm {
    /// Not set yet.
    pub fn new() -> io::Result<Self> {
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        let timer = timerfd_create(TimerfdClockId::Monotonic, flags)?;
        // SAFETY: the descriptor is owned by what it is registered with, which closes it after it was taken off, and
        // an owned descriptor is the same number all its life.
        Ok(Self(unsafe { AsyncFd::register(timer) }?))
    }

    /// Waits so long.
    pub async fn after(&self, wait: Duration) -> io::Result<()> {
        // Zero would put it off for good.
        let wait = wait.max(Duration::from_nanos(1));
        let once = Itimerspec {
            it_interval: Timespec::default(),
            it_value: wait.try_into().map_err(io::Error::other)?,
        };
        timerfd_settime(&self.0, TimerfdTimerFlags::empty(), &once)?;
        loop {
            let mut ready = self.0.readable().await?;
            // Readiness that is left over from the alarm before ends here, by the read that finds nothing.
            match ready.try_io(|fd| Ok(rustix::io::read(fd, &mut [0; 8])?)) {
                Ok(read) => return read.map(drop),
                Err(_left_over) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[test]
    fn nobody_is_woken_early_nor_never() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let alarm = Alarm::new().unwrap();
            for wait in [0, 1, 50, 999, 3_000].map(Duration::from_micros) {
                let begun = Instant::now();
                alarm.after(wait).await.unwrap();
                assert!(begun.elapsed() >= wait, "woken {:?} after {wait:?} were asked for", begun.elapsed());
            }
        });
    }
}
