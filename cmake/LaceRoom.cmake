# lace_room(NAME [INTERNAL] SOURCES files... [LINKS targets...] [PRIVATE_LINKS targets...])
# A static library lace_NAME with the alias lace::NAME. Includes are written from include/ or src/.
# INTERNAL: not installed, as no public header declares what it has.
function(lace_room name)
  cmake_parse_arguments(ARG "INTERNAL" "" "SOURCES;LINKS;PRIVATE_LINKS" ${ARGN})
  add_library(lace_${name} STATIC ${ARG_SOURCES})
  add_library(lace::${name} ALIAS lace_${name})
  target_include_directories(lace_${name} PUBLIC
    $<BUILD_INTERFACE:${CMAKE_SOURCE_DIR}/include>
    $<INSTALL_INTERFACE:${CMAKE_INSTALL_INCLUDEDIR}>
    PRIVATE ${CMAKE_SOURCE_DIR}/src)
  target_compile_features(lace_${name} PUBLIC cxx_std_20)
  target_link_libraries(lace_${name} PUBLIC ${ARG_LINKS} PRIVATE ${ARG_PRIVATE_LINKS})
  set_target_properties(lace_${name} PROPERTIES EXPORT_NAME ${name})
  lace_flags(lace_${name})
  if(NOT ARG_INTERNAL)
    set_property(GLOBAL APPEND PROPERTY LACE_ROOMS lace_${name})
  endif()
endfunction()

# Warnings and sanitizers, the same for every target of the project.
function(lace_flags target)
  target_compile_options(${target} PRIVATE
    $<$<COMPILE_LANGUAGE:CXX>:-Wall -Wextra -Wno-unknown-pragmas>)
  if(LACE_SANITIZE)
    target_compile_options(${target} PRIVATE -fsanitize=address,undefined -fno-omit-frame-pointer
                                             -fno-sanitize-recover=undefined)
    target_link_options(${target} PUBLIC -fsanitize=address,undefined)
  endif()
  if(LACE_FUZZ)
    target_compile_options(${target} PRIVATE -O1 -g -fsanitize=fuzzer-no-link,address,undefined
                                             -fno-sanitize-recover=undefined)
    target_link_options(${target} PUBLIC -fsanitize=address,undefined)
  endif()
endfunction()

# lace_test(NAME SOURCES files... LINKS targets... [LABEL fast|slow|cuda] [ONE_PROCESS])
# One GoogleTest program test_NAME; each of its tests is a ctest with the label, or with ONE_PROCESS
# all together are one.
function(lace_test name)
  cmake_parse_arguments(ARG "ONE_PROCESS" "LABEL" "SOURCES;LINKS" ${ARGN})
  if(NOT ARG_LABEL)
    set(ARG_LABEL fast)
  endif()
  add_executable(test_${name} ${ARG_SOURCES})
  target_include_directories(test_${name} PRIVATE ${CMAKE_SOURCE_DIR}/src ${CMAKE_SOURCE_DIR}/tests)
  target_link_libraries(test_${name} PRIVATE ${ARG_LINKS} GTest::gtest_main)
  lace_flags(test_${name})
  if(ARG_ONE_PROCESS)
    add_test(NAME ${name} COMMAND test_${name})
    set_tests_properties(${name} PROPERTIES LABELS ${ARG_LABEL} TIMEOUT 1800)
    return()
  endif()
  gtest_discover_tests(test_${name} PROPERTIES LABELS ${ARG_LABEL} TIMEOUT 600
                       DISCOVERY_TIMEOUT 60)
endfunction()
