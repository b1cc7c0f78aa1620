// The header in C++: it compiles without a warning, and its functions are found.
#include <pageferry.h>

#include <cstdio>

int main() {
    pageferry_source_options source = {};
    source.size = sizeof source;
    pageferry_destination_options destination = {};
    destination.size = sizeof destination;
    destination.transport = PAGEFERRY_TRANSPORT_STREAM;
    if (pageferry_source_open(&source) >= 0 || pageferry_destination_open(&destination) >= 0) return 1;
    char text[256];
    pageferry_error_text(text, sizeof text);
    return std::printf("%s: %s\n", pageferry_version(), text) > 0 ? 0 : 1;
}
