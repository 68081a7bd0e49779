//! A process that says, line by line, how far it is, until it is killed. Also a part of the tests of other crates, by its
//! path.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

/// Longest wait for what it should say.
const PATIENCE: Duration = Duration::from_secs(300);

/// The process; killed when dropped.
pub(crate) struct Heard<T> {
    child: Child,
    said: Arc<(Mutex<State<T>>, Condvar)>,
    listener: Option<JoinHandle<()>>,
}

struct State<T> {
    said: T,
    /// Its output has ended: it says no more.
    ended: bool,
}

impl<T: Copy + Send + std::fmt::Debug + 'static> Heard<T> {
    /// Starts a process; `hear` takes each line of its output into what it has said.
    pub(crate) fn start(command: &mut Command, first: T, hear: impl Fn(&mut T, &str) + Send + 'static) -> Self {
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let said = Arc::new((Mutex::new(State { said: first, ended: false }), Condvar::new()));
        let listener = std::thread::spawn({
            let said = Arc::clone(&said);
            move || {
                for line in lines.map_while(Result::ok) {
                    hear(&mut said.0.lock().unwrap().said, &line);
                    said.1.notify_all();
                }
                said.0.lock().unwrap().ended = true;
                said.1.notify_all();
            }
        });
        Self { child, said, listener: Some(listener) }
    }

    /// What it has said so far.
    pub(crate) fn said(&self) -> T {
        self.said.0.lock().unwrap().said
    }

    /// Waits until it has said this. It must not end before.
    pub(crate) fn wait_until(&self, is_said: impl Fn(&T) -> bool) {
        let state = self.said.0.lock().unwrap();
        let waits = |state: &mut State<T>| !is_said(&state.said) && !state.ended;
        let (state, waited) = self.said.1.wait_timeout_while(state, PATIENCE, waits).unwrap();
        assert!(!waited.timed_out(), "it hangs at {:?}", state.said);
        assert!(is_said(&state.said), "it ended by itself at {:?}", state.said);
    }

    /// Kills it; how it ended, and all that it had said until then.
    pub(crate) fn kill(mut self) -> (ExitStatus, T) {
        self.child.kill().unwrap();
        let status = self.child.wait().unwrap();
        self.listener.take().unwrap().join().unwrap();
        (status, self.said())
    }
}

impl<T> Drop for Heard<T> {
    fn drop(&mut self) {
        // Fails if it has ended, which is fine.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
