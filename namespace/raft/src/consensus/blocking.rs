//! Where blocking work runs.

use tokio::runtime::{Handle, RuntimeFlavor};

/// Whether blocking calls go to tokio's blocking threads or run where they are, which a deterministic simulation needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Blocking {
    /// On tokio's blocking threads.
    Pool,
    /// In the caller's task.
    Inline,
}

impl Blocking {
    /// Runs `work`.
    ///
    /// Cancel safety: on the pool the work goes on if the future is dropped.
    pub(crate) async fn run<T, F>(self, work: F) -> T
    where
        T: Send + 'static,
        F: FnOnce() -> T + Send + 'static,
    {
        match self {
            Self::Inline => work(),
            Self::Pool => match tokio::task::spawn_blocking(work).await {
                Ok(done) => done,
                Err(error) => match error.try_into_panic() {
                    Ok(panic) => std::panic::resume_unwind(panic),
                    // Only a runtime that shuts down cancels: nobody waits for this task any more.
                    Err(_) => std::future::pending().await,
                },
            },
        }
    }

    /// Runs work that is short as a rule. Where the runtime has other threads to go on with, it runs in the caller's, since
    /// handing it over and back costs two wake-ups.
    pub(crate) async fn run_short<T, F>(self, work: F) -> T
    where
        T: Send + 'static,
        F: FnOnce() -> T + Send + 'static,
    {
        if self == Self::Pool && Handle::current().runtime_flavor() == RuntimeFlavor::MultiThread {
            return tokio::task::block_in_place(work);
        }
        self.run(work).await
    }
}
