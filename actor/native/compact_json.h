// JSON without its white space: members in the order, and numbers in the form, in which they were written. A manifest
// is written in the one order that its digest is defined over, so this gives the bytes that were hashed by its
// publisher.
#pragma once

#include <map>
#include <string>
#include <string_view>

// The members of a JSON object by name, each as compact JSON. Throws DoesNotVerify for anything but an object.
std::map<std::string, std::string> compact_members(std::string_view json_object);
