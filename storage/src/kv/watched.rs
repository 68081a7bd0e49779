//! Tells when an engine finds that it is damaged.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;

use super::{Batch, Entry, KeyRange, Kv, KvError, KvRead, Scan, Space};

type Told = Box<dyn Fn(&KvError) + Send + Sync>;

/// A store of which the first [`KvError::Damaged`], by whatever call, is told to somebody: whoever can make its contents anew does so
/// the next time that it is opened, instead of finding the same damage again.
pub struct WatchedKv {
    kv: Arc<dyn Kv>,
    watch: Arc<Watch>,
}

struct Watch {
    told: AtomicBool,
    tell: Told,
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watch").field("told", &self.told).finish_non_exhaustive()
    }
}

impl fmt::Debug for WatchedKv {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WatchedKv").field("kv", &self.kv).field("watch", &self.watch).finish()
    }
}

impl Watch {
    fn see<T>(&self, result: Result<T, KvError>) -> Result<T, KvError> {
        if let Err(error @ KvError::Damaged { .. }) = &result
            && !self.told.swap(true, Ordering::AcqRel)
        {
            (self.tell)(error);
        }
        result
    }

    fn scan<'a>(self: &Arc<Self>, scan: Scan<'a>) -> Scan<'a> {
        let watch = Arc::clone(self);
        Box::new(scan.map(move |entry: Result<Entry, KvError>| watch.see(entry)))
    }
}

impl WatchedKv {
    /// Tells `tell` of the first damage that `kv` reports, on the thread that met it.
    pub fn new(kv: Arc<dyn Kv>, tell: impl Fn(&KvError) + Send + Sync + 'static) -> Self {
        Self { kv, watch: Arc::new(Watch { told: AtomicBool::new(false), tell: Box::new(tell) }) }
    }
}

impl KvRead for WatchedKv {
    fn get(&self, space: Space, key: &[u8]) -> Result<Option<Bytes>, KvError> {
        self.watch.see(self.kv.get(space, key))
    }

    fn scan(&self, space: Space, range: KeyRange, reverse: bool) -> Scan<'_> {
        self.watch.scan(self.kv.scan(space, range, reverse))
    }
}

impl Kv for WatchedKv {
    fn write(&self, batch: Batch) -> Result<(), KvError> {
        self.watch.see(self.kv.write(batch))
    }

    fn persist(&self) -> Result<(), KvError> {
        self.watch.see(self.kv.persist())
    }

    fn snapshot(&self) -> Box<dyn KvRead> {
        Box::new(WatchedView { view: self.kv.snapshot(), watch: Arc::clone(&self.watch) })
    }

    fn disk_bytes(&self) -> u64 {
        self.kv.disk_bytes()
    }
}

#[derive(Debug)]
struct WatchedView {
    view: Box<dyn KvRead>,
    watch: Arc<Watch>,
}

impl KvRead for WatchedView {
    fn get(&self, space: Space, key: &[u8]) -> Result<Option<Bytes>, KvError> {
        self.watch.see(self.view.get(space, key))
    }

    fn scan(&self, space: Space, range: KeyRange, reverse: bool) -> Scan<'_> {
        self.watch.scan(self.view.scan(space, range, reverse))
    }
}
