import Glibc

/// The kernel's own words for an error number.
enum SystemError {
    static func text(_ number: Int32) -> String {
        // SAFETY: glibc's strerror returns a terminated string, kept for this thread until its next call.
        unsafe String(cString: strerror(number))
    }
}
