//! A process that writes numbered batches until it is killed, and what must be left of them.

use std::io::Write;
use std::ops::Bound;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Stdio};

use causeway_base::ByteSize;
use causeway_storage::kv::{Batch, FjallKv, FjallOptions, Kv, SledKv, SledOptions, Space};

use super::heard::Heard;

pub(crate) const SPACES: [Space; 2] = [CELLS, LOG];
/// Each batch sets all cells to its number, and adds one entry to the log.
const CELLS: Space = Space("cells");
const LOG: Space = Space("log");
const CELL_COUNT: u64 = 20;

const PATH: &str = "CAUSEWAY_CRASH_WRITER_PATH";
const ENGINE: &str = "CAUSEWAY_CRASH_WRITER_ENGINE";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Engine {
    Fjall,
    Sled,
}

/// Memtables so small that it flushes and compacts all the time.
pub(crate) fn options() -> FjallOptions {
    FjallOptions {
        memtable: ByteSize::kib(256),
        cache: ByteSize::mib(4),
        reserve: ByteSize(0),
        ..FjallOptions::default()
    }
}

pub(crate) fn batch(number: u64) -> Batch {
    let mut batch = Batch::new();
    for cell in 0..CELL_COUNT {
        batch.put(CELLS, cell.to_be_bytes().to_vec(), cell_value(number, cell));
    }
    batch.put(LOG, number.to_be_bytes().to_vec(), vec![number as u8; (number % 3_000) as usize]);
    batch
}

fn cell_value(number: u64, cell: u64) -> Vec<u8> {
    number.to_be_bytes().repeat(1 + (cell * 7 % 40) as usize)
}

/// The number of the newest batch, if the store holds exactly the batches up to it.
pub(crate) fn check(kv: &dyn Kv) -> Result<u64, String> {
    let all = |space| {
        kv.scan(space, (Bound::Unbounded, Bound::Unbounded), false)
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| error.to_string())
    };
    let log = all(LOG)?;
    let newest = log.len() as u64;
    for ((key, value), number) in log.iter().zip(1_u64..) {
        if key[..] != number.to_be_bytes() || value[..] != vec![number as u8; (number % 3_000) as usize] {
            return Err(format!("entry {number} of the log is {key:?}"));
        }
    }
    let cells = all(CELLS)?;
    let expected: Vec<_> = if newest == 0 { Vec::new() } else { (0..CELL_COUNT).collect() };
    if cells.len() != expected.len() {
        return Err(format!("{} cells at {newest}", cells.len()));
    }
    for ((key, value), cell) in cells.iter().zip(expected) {
        if key[..] != cell.to_be_bytes() || value[..] != cell_value(newest, cell) {
            return Err(format!("cell {cell} is not of batch {newest}: half a batch"));
        }
    }
    Ok(newest)
}

/// Numbers that a writer has said before it ended.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Said {
    pub(crate) written: u64,
    pub(crate) persisted: u64,
}

/// The process; killed when dropped.
pub(crate) struct Writer(Heard<Said>);

impl Writer {
    pub(crate) fn start(engine: Engine, path: &Path) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["writer::process", "--exact", "--ignored", "--nocapture"]);
        command.env(PATH, path).env(ENGINE, format!("{engine:?}")).stderr(Stdio::null());
        Self(Heard::start(&mut command, Said::default(), Said::hear))
    }

    /// What it has said so far.
    pub(crate) fn said(&self) -> Said {
        self.0.said()
    }

    /// Waits until it has written this batch.
    pub(crate) fn wait_for_batches(&self, number: u64) {
        self.0.wait_until(|said| said.written >= number);
    }

    /// Kills it, and gives all that it had said until then.
    pub(crate) fn kill(self) -> Said {
        let (status, said) = self.0.kill();
        assert_eq!(status.signal(), Some(9), "the writer had ended by itself: {status:?}");
        said
    }
}

impl Said {
    /// The test harness says things, too. A killed process may leave half a line, which says too small a number at worst.
    fn hear(&mut self, line: &str) {
        match line.split_once(' ').map(|(what, number)| (what, number.parse())) {
            Some(("written", Ok(number))) => self.written = self.written.max(number),
            Some(("persisted", Ok(number))) => self.persisted = self.persisted.max(number),
            _ => {}
        }
    }
}

/// The process itself: started by the tests above, not to be run alone.
#[test]
#[ignore = "started by other tests"]
fn process() {
    let (Ok(path), Ok(engine)) = (std::env::var(PATH), std::env::var(ENGINE)) else { return };
    let path = Path::new(&path);
    let kv: Box<dyn Kv> = if engine == format!("{:?}", Engine::Sled) {
        let options = SledOptions { reserve: ByteSize(0), ..SledOptions::default() };
        Box::new(SledKv::open(path, &SPACES, &options).unwrap())
    } else {
        Box::new(FjallKv::open(path, &SPACES, &options()).unwrap())
    };
    let first = check(&*kv).unwrap() + 1;
    for number in first.. {
        // After a power cut nothing works any more, and it waits to be killed.
        if kv.write(batch(number)).is_err() {
            loop {
                std::thread::park();
            }
        }
        say("written", number);
        if number % 7 == 0 && kv.persist().is_ok() {
            say("persisted", number);
        }
    }
}

/// In one write each, so that a kill leaves whole lines.
fn say(what: &str, number: u64) {
    let line = format!("{what} {number}\n");
    let mut out = std::io::stdout().lock();
    out.write_all(line.as_bytes()).and_then(|()| out.flush()).unwrap();
}
