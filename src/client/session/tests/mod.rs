mod model;
// Certificates for real connections are made by feature `server`.
#[cfg(feature = "server")]
mod quic;
