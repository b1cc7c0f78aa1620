extension UserfaultDescriptor {
    /// Gives the descriptor up to the caller, who closes it.
    public consuming func release() -> Int32 {
        let descriptor = rawValue
        discard self
        return descriptor
    }
}
