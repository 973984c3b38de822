//! Compression of batches on all cores.

use std::sync::mpsc::sync_channel;
use std::sync::{Arc, Mutex, PoisonError};

use rayon::{ThreadPool, ThreadPoolBuilder};

use super::pack::Parcel;
use super::stage::Job;
use crate::format::codec::{Compression, Compressor};

/// A pool of threads and of compressors, which keep their state between batches.
pub struct Squeezer {
    compression: Compression,
    idle: Mutex<Vec<Compressor>>,
    pool: Mutex<Option<Arc<ThreadPool>>>,
    threads: usize,
}

impl Squeezer {
    /// One for this codec. No thread is started before the first [`Squeezer::spawn`].
    pub fn new(compression: Compression) -> Squeezer {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        Squeezer {
            compression,
            idle: Mutex::default(),
            pool: Mutex::default(),
            threads,
        }
    }

    /// Threads that compress at once.
    pub fn threads(&self) -> usize {
        self.threads
    }

    /// Compresses the raw batches of a parcel, here and now.
    pub fn squeeze(&self, parcel: &mut Parcel) {
        let idle = || self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let taken = idle().pop();
        let mut compressor = taken.unwrap_or_else(|| Compressor::new(&self.compression));
        for (batch, seal) in parcel.raw.drain(..) {
            let buf = batch.seal_compressed(&seal, &mut compressor, &mut parcel.chunk);
            parcel.spare.push(buf);
        }
        idle().push(compressor);
    }

    /// Compresses the raw batches of a parcel on the pool, or here if there are no threads to be
    /// had.
    pub fn spawn(squeezer: &Arc<Squeezer>, mut parcel: Parcel) -> Job {
        let Some(pool) = squeezer.pool() else {
            squeezer.squeeze(&mut parcel);
            return Job::Ready(parcel);
        };
        let (done, receiver) = sync_channel(1);
        let me = Arc::clone(squeezer);
        pool.spawn(move || {
            me.squeeze(&mut parcel);
            let _ = done.send(parcel); // nobody waits once the run has failed
        });
        Job::Pending(receiver)
    }

    fn pool(&self) -> Option<Arc<ThreadPool>> {
        let mut pool = self.pool.lock().unwrap_or_else(PoisonError::into_inner);
        if pool.is_none() {
            let builder = ThreadPoolBuilder::new().num_threads(self.threads);
            *pool = builder.build().ok().map(Arc::new);
        }
        pool.clone()
    }
}
