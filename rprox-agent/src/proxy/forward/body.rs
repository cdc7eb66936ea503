//! Bodies on their way through: never held whole, and never waited for forever.

#![forbid(unsafe_code)]

mod request;
mod response;

pub use self::request::{Progress, RequestBody, UploadError};
pub use self::response::{Download, DownloadError, ResponseBody, Source};
