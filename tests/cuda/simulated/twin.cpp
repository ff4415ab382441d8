#include "emulated/twin.h"

#include <cstdlib>
#include <cxxabi.h>
#include <map>
#include <string>

namespace emulated {

/* By the kernel's declaration in words, which both compilers' names say alike. */
static std::map<std::string, twin> &all() {
    static std::map<std::string, twin> twins;
    return twins;
}

static std::string in_words(const char *name) {
    int status = 0;
    char *words = abi::__cxa_demangle(name, NULL, NULL, &status);
    const std::string result = words ? words : name;
    free(words);
    return result;
}

/* "twin_tag<&(KERNEL)>" */
static std::string kernel_in(const std::string &tag) {
    static const char before[] = "twin_tag<&(", behind[] = ")>";
    const size_t left = sizeof before - 1, right = sizeof behind - 1;
    if (tag.compare(0, left, before) != 0 || tag.size() < left + right) fail("no kernel: %s", tag.c_str());
    return tag.substr(left, tag.size() - left - right);
}

/* Two files may have the same kernel from a header, and no others of one name: which of them a library means
 * would not be known. */
bool twin_add(const char *tag, const twin &kernel) {
    const std::string words = kernel_in(in_words(tag));
    const auto place = all().emplace(words, kernel);
    if (!place.second && place.first->second.file != kernel.file)
        fail("kernels of two files are called %s", words.c_str());
    return true;
}

const twin *twin_find(const char *name) {
    const auto found = all().find(in_words(name));
    return found == all().end() ? NULL : &found->second;
}

} // namespace emulated
