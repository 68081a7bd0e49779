//! Asking for a name, so that nobody does by accident what cannot be undone.

use std::io::{BufRead as _, IsTerminal as _, Write as _};

use super::exit::{Exit, Failure};

/// That `name` was given once more, or is typed at a terminal after `warning`.
///
/// # Errors
/// It is another, or there is nobody to type it.
pub(super) fn confirmed(name: &str, given: Option<&str>, warning: impl FnOnce() -> String) -> anyhow::Result<()> {
    let typed = match given {
        Some(given) => given.to_owned(),
        None if std::io::stdin().is_terminal() => {
            eprint!("{}\nThe volume's name, to go on: ", warning());
            std::io::stderr().flush()?;
            let mut line = String::new();
            std::io::stdin().lock().read_line(&mut line)?;
            line.trim().to_owned()
        }
        None => {
            let message = "this cannot be undone: repeat the volume's name with --confirm NAME; nothing was done";
            return Err(Failure::error(Exit::Usage, message));
        }
    };
    if typed == name {
        return Ok(());
    }
    let message = format!("{typed:?} is not the volume's name {name:?}: nothing was done");
    Err(Failure::error(Exit::Usage, message))
}
