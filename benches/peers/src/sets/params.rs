//! Sizes and time caps of a run, as arguments.

/// Sizes and time caps of one run.
#[derive(Clone, Debug, clap::Args)]
pub struct Params {
    /// Keys of the small sets (16 B keys, 100 B values)
    #[arg(long, default_value_t = 1_250_000)]
    pub keys: u64,
    /// Keys of the 1 KiB set
    #[arg(long, default_value_t = 150_000)]
    pub medium_keys: u64,
    /// Keys of the set of point reads (16 B keys, 100 B values)
    #[arg(long, default_value_t = 10_000_000)]
    pub get_keys: u64,
    /// Values of 64 KiB
    #[arg(long, default_value_t = 3_000)]
    pub large64: u64,
    /// Values of 1 MiB
    #[arg(long, default_value_t = 300)]
    pub large1m: u64,
    /// Keys of the as-of set, each written 10 times
    #[arg(long, default_value_t = 50_000)]
    pub asof_keys: u64,
    /// Synced writes; a tenth of it of large values
    #[arg(long, default_value_t = 3_000)]
    pub syncs: u64,
    /// Multiplies every time cap
    #[arg(long, default_value_t = 0.8)]
    pub time: f64,
    #[arg(long, default_value_t = 256)]
    pub cache_mb: usize,
    /// Cache of the set whose data is larger than it
    #[arg(long, default_value_t = 32)]
    pub cold_cache_mb: usize,
    #[arg(long, default_value_t = 64)]
    pub write_buffer_mb: usize,
    #[arg(long, default_value_t = 2)]
    pub threads: usize,
}

impl Params {
    pub fn quick(self) -> Params {
        Params {
            keys: self.keys / 6,
            medium_keys: self.medium_keys / 6,
            get_keys: self.get_keys / 6,
            large64: self.large64 / 6,
            large1m: self.large1m / 6,
            asof_keys: self.asof_keys / 5,
            syncs: self.syncs / 6,
            time: self.time / 6.0,
            ..self
        }
    }

    /// The parameters as arguments for a child process.
    pub fn args(&self) -> Vec<String> {
        [
            ("keys", self.keys as f64),
            ("medium-keys", self.medium_keys as f64),
            ("get-keys", self.get_keys as f64),
            ("large64", self.large64 as f64),
            ("large1m", self.large1m as f64),
            ("asof-keys", self.asof_keys as f64),
            ("syncs", self.syncs as f64),
            ("time", self.time),
            ("cache-mb", self.cache_mb as f64),
            ("cold-cache-mb", self.cold_cache_mb as f64),
            ("write-buffer-mb", self.write_buffer_mb as f64),
            ("threads", self.threads as f64),
        ]
        .iter()
        .map(|(name, v)| format!("--{name}={v}"))
        .collect()
    }
}
